"""Object storage by URL: a path of universal-pathlib's for each object, and one request for each that is read or put.

A put is of whole bytes. S3 and Google Cloud Storage make it visible at once or not at all, and every read and
listing that begins later sees it, so that a reader has the old object or the new one, and two processes may write.
Objects are read in one request too: one in pieces could have another version's end. Listings are never remembered.

Nothing here is imported for a store in a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from ismn_cli.core.errors import UsageError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": ""}
"""Protocols whose puts are of whole objects, and the package that speaks each."""
_WHOLE = {"s3fs": {"max_concurrency": 1}}  # else what is large is asked for its size, then read in ranges
_HINT = "Check the bucket's name, your credentials and what they may do there; what was stored is kept."
_AT_ONCE = 16
_LONGEST = 200


def open_url(url: str) -> Path:
    """Return the path of ``url``: of pathlib's interface, as far as object storage has it.

    Raises UsageError: a protocol that does not put objects whole, a package that is missing, no bucket named.
    """
    protocol, _, rest = url.partition("://")
    if protocol not in PACKAGES:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "file"))
        raise UsageError(f"A store cannot be kept at '{url}'.", f"Give a folder, or a URL that begins with {known}.")
    if not rest.strip("/"):
        raise UsageError(f"'{url}' names no bucket.", f"Write, for example: {protocol}://bucket/results")
    if set(rest) & set("*?[]#"):
        raise UsageError(f"'{url}' has signs that stand for something else there.", "Leave out: * ? [ ] #")
    package = PACKAGES[protocol]
    try:
        from upath import UPath

        options: dict[str, Any] = {"use_listings_cache": False, **_WHOLE.get(package, {})}
        place = UPath(url.rstrip("/"), **options)
        _ = place.fs
    except ImportError as error:
        needed = " ".join(['"ismn-cli[cloud]"', package]).strip()
        raise UsageError(f"'{url}' needs a package that is missing: {_told(error)}.", f"pip install {needed}") from None
    return cast(Path, place)


def get(path: Path) -> bytes | None:
    """Return an object; None where there is none. Raises UsageError where it cannot be reached."""
    with _reaching("read", path), suppress(FileNotFoundError):
        content: bytes = _system(path).cat_file(_key(path))
        return content
    return None


def get_all(paths: Iterable[Path]) -> Iterator[bytes | None]:
    """Yield what `get` returns for each path, several asked for at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as asking:
        yield from asking.map(get, paths)


def put(path: Path, content: bytes) -> None:
    """Store an object whole. Raises UsageError; then there is what there was."""
    with _reaching("write", path):
        _system(path).pipe_file(_key(path), content)


def listed(folder: Path) -> list[str]:
    """Return the names of what lies under ``folder``, one level of it. Raises UsageError."""
    with _reaching("list", folder), suppress(FileNotFoundError):
        found = _system(folder).ls(_key(folder), detail=False)
        return sorted({str(name).rstrip("/").rpartition("/")[2] for name in found})
    return []


def exists(path: Path) -> bool:
    """Whether there is such an object. Raises UsageError where it cannot be reached."""
    with _reaching("read", path):
        return bool(_system(path).exists(_key(path)))


def move(path: Path, place: Path) -> None:
    """Copy an object, then delete it. Raises OSError."""
    system = _system(path)
    try:
        system.cp_file(_key(path), _key(place))
        system.rm_file(_key(path))
    except Exception as error:
        raise OSError(_told(error)) from error


def remove(folder: Path) -> None:
    """Delete all that lies under ``folder``. Raises OSError."""
    try:
        _system(folder).rm(_key(folder), recursive=True)
    except Exception as error:
        raise OSError(_told(error)) from error


@contextmanager
def _reaching(doing: str, path: Path) -> Iterator[None]:
    """Turn whatever a protocol's package raises into a UsageError; only reading may find nothing."""
    try:
        yield
    except Exception as error:
        absent = isinstance(error, FileNotFoundError)
        if absent and doing != "write":
            raise
        told = f"there is no such bucket ({_told(error)})" if absent else _told(error)
        raise UsageError(f"Cannot {doing} '{path}': {told}.", _HINT) from error


def _told(error: Exception) -> str:
    """Return an error in a line, whatever a server has put into it."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:_LONGEST].rstrip(".")


def _system(path: Path) -> Any:
    return cast(Any, path).fs


def _key(path: Path) -> str:
    return str(cast(Any, path).path)
