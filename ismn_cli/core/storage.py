"""How the store touches the disk: whole writes, one kind of error, and a place for what cannot be read."""

from __future__ import annotations

import errno
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ismn_cli.core.errors import UsageError
from ismn_cli.core.files import replace_atomically

_LOG = logging.getLogger("ismn.store")

_FULL = "Free some space, or set ISMN_HOME to a folder on another disk; what was stored is kept."
_FORBIDDEN = "Set ISMN_HOME to a folder that you may write to; what was stored is kept."
_HINTS = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL}


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


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill what becomes ``path``, in one piece, and make its folders. Raises UsageError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, write)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one piece. Raises UsageError."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def move_aside(root: Path, path: Path, reason: str) -> None:
    """Report that ``path`` cannot be used, and move it to the store's folder of corrupt files."""
    place = root / "corrupt" / f"{path.parent.name}-{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    _LOG.warning("'%s' cannot be used: %s. It is set aside as '%s' and made again.", path, reason, place)
    with suppress(OSError):  # another process did it first, or the disk is full: then it is overwritten
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
