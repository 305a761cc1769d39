"""How the store touches the disk or object storage: whole writes, one kind of error, a place for what cannot be read.

Paths are local ones, or those of `ismn_cli.core.remote`; both are read and written by the functions here.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ismn_cli.core.errors import UsageError
from ismn_cli.core.files import replace_atomically

if TYPE_CHECKING:
    from pydantic import ValidationError

Answer = TypeVar("Answer")
_LOG = logging.getLogger("ismn.store")

_FULL = "Free some space, or set ISMN_HOME to a folder on another disk; what was stored is kept."
_FORBIDDEN = "Set ISMN_HOME to a folder that you may write to; what was stored is kept."
_HINTS = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::[^/]*)?://.*", re.DOTALL)
_LOCAL = ("file://", "local://")


def is_url(text: str) -> bool:
    """Whether ``text`` names a place by URL."""
    return _URL.fullmatch(text) is not None


def is_remote(path: Path) -> bool:
    """Whether ``path`` is in object storage, not on a file system."""
    return not isinstance(path, Path)


def open_place(text: str) -> Path:
    """Return the path that ``text`` names: a folder, or a URL; file:// is a folder. Raises UsageError."""
    if not is_url(text):
        return Path(text)
    for scheme in _LOCAL:
        if text.startswith(scheme):
            return Path(text.removeprefix(scheme))
    from ismn_cli.core.remote import open_url

    return open_url(text)


def home_folder() -> Path:
    """Return the folder of ismn's own: ISMN_HOME where that is one, else ~/.ismn. Raises UsageError without a home."""
    named = os.environ.get("ISMN_HOME") or ""
    remote = is_url(named) and not named.startswith(_LOCAL)
    return expanded(open_place(named) if named and not remote else Path("~/.ismn"))


def expanded(path: Path) -> Path:
    """Return a local path from the root on. Raises UsageError where it begins with a home that there is not."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise UsageError("There is no home folder.", "Set ISMN_HOME to a folder for results.") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk while writing ``path`` into a UsageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = _HINTS.get(error.errno or 0, _FORBIDDEN)
        raise UsageError(f"Cannot write '{path}': {reason}.", hint) from error


def unreadable(path: Path, error: OSError) -> UsageError:
    """Return the error for a file that is there and may not be read."""
    return UsageError(f"Cannot read '{path}': {error.strerror or error}.", "Check who may read the store.")


def read_bytes(path: Path) -> bytes | None:
    """Return the content of ``path``; None where there is nothing, or nothing any more. Raises UsageError."""
    if is_remote(path):
        from ismn_cli.core import remote

        return remote.get(path)
    try:
        return _steady(path.read_bytes)
    except OSError as error:
        raise unreadable(path, error) from None


def read_all(paths: Iterable[Path]) -> Iterator[bytes | None]:
    """Yield what `read_bytes` returns for each path; from object storage several at a time."""
    places = list(paths)
    if places and is_remote(places[0]):
        from ismn_cli.core import remote

        return remote.get_all(places)
    return map(read_bytes, places)


def names_in(folder: Path) -> list[str]:
    """Return the names of what lies in ``folder``, in order; nothing where there is no such folder. Raises UsageError.

    What was listed may be gone when it is opened.
    """
    if is_remote(folder):
        from ismn_cli.core import remote

        return remote.listed(folder)
    try:
        return sorted(_steady(lambda: os.listdir(folder)) or ())  # noqa: PTH208 - names, not paths
    except OSError as error:
        raise unreadable(folder, error) from None


def is_there(path: Path) -> bool:
    """Whether there is a file or an object. Raises UsageError."""
    if is_remote(path):
        from ismn_cli.core import remote

        return remote.exists(path)
    return path.exists()


def _steady(ask: Callable[[], Answer]) -> Answer | None:
    """Return what ``ask`` does; None for what is not there. Raises OSError.

    Over NFS a file that another machine replaces in that moment is a stale handle: its name is looked up once more.
    """
    for _ in range(2):
        try:
            return ask()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill what becomes ``path``, in one piece, and make its folders. Raises UsageError."""
    if is_remote(path):
        _put(path, _filled(path.name, write))
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, write)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one piece. Raises UsageError."""
    if is_remote(path):
        _put(path, content)
    else:
        write_whole(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one piece. Raises UsageError."""
    if is_remote(path):
        _put(path, text.encode())
    else:
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _put(path: Path, content: bytes) -> None:
    from ismn_cli.core import remote

    remote.put(path, content)


def _filled(name: str, write: Callable[[Path], object]) -> bytes:
    """Return what ``write`` makes of a file called ``name``."""
    with tempfile.TemporaryDirectory(prefix="ismn-") as folder:
        temporary = Path(folder) / name
        with writing(temporary):
            write(temporary)
        return temporary.read_bytes()


def parsed(root: Path, path: Path, content: bytes | None, parse: Callable[[bytes], Answer]) -> Answer | None:
    """Return what ``parse`` makes of the content of ``path``; None without, or where it cannot: see `move_aside`."""
    from pydantic import ValidationError

    try:
        return None if content is None else parse(content)
    except ValidationError as error:
        move_aside(root, path, misshapen(error))
        return None


def misshapen(error: ValidationError) -> str:
    """Return in words that a record is not as it should be."""
    return f"{error.error_count()} of its fields are not as they should be"


def remove_folder(folder: Path) -> None:
    """Remove ``folder`` and the files in it, as far as that can be done: what is left is in nobody's way."""
    with suppress(OSError):
        if is_remote(folder):
            from ismn_cli.core import remote

            remote.remove(folder)
            return
        for path in folder.iterdir():
            with suppress(OSError):
                path.unlink()
        folder.rmdir()


def move_aside(root: Path, path: Path, reason: str) -> None:
    """Report that ``path`` cannot be used, and move it to the store's folder of corrupt files."""
    place = root / "corrupt" / f"{path.parent.name}-{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    _LOG.warning("'%s' cannot be used: %s. It is set aside as '%s' and made again.", path, reason, place)
    with suppress(OSError):  # another process did it first, or the disk is full: then it is overwritten
        if is_remote(path):
            from ismn_cli.core import remote

            remote.move(path, place)
        else:
            place.parent.mkdir(exist_ok=True)
            path.replace(place)
