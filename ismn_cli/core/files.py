"""Files that are whole or absent."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then move it into place.

    A reader, or a process started after a crash, sees the old content or the new, never a part.
    Raises OSError (disk full, folder not writable); then ``path`` is as it was. A link keeps pointing to where it
    does, and what is no regular file (/dev/stdout, a pipe) is written to as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        write(path)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the atomic call, by its own name
    finally:
        temporary.unlink(missing_ok=True)
