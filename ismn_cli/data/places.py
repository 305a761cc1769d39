"""Where data sets are looked for, and what this process has said already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ismn_cli.core.errors import UsageError
from ismn_cli.core.storage import home_folder

_told: set[tuple[object, ...]] = set()


def first_time(*key: object) -> bool:
    """Return whether this process has not asked for ``key`` before."""
    first = key not in _told
    _told.add(key)
    return first


def home_data() -> Path:
    """Return the folder for downloaded data."""
    return home_folder() / "data"


def roots(data_dir: Path | None, hint: Callable[[Path], str]) -> Iterator[Path]:
    """Yield ``data_dir``, ISMN_DATA_DIR and the home folder, those that are given.

    Raises UsageError for a folder that was named but does not exist; ``hint`` says what to put there.
    """
    for source, root in _named(data_dir):
        if not root.is_dir():
            raise UsageError(f"{source} names {root}, which is not a folder.", hint(root))
        yield root
    yield home_data()


def own_place(name: str, data_dir: Path | None, hint: str) -> Path:
    """Return where the user's own images are: ``data_dir``, else ISMN_DATA_DIR.

    Raises UsageError where neither is given or the one that counts does not exist.
    """
    for source, place in _named(data_dir):
        if not place.exists():
            raise UsageError(f"{source} names {place}, which does not exist.", hint)
        return place
    raise UsageError(f"{name} needs --data-dir.", hint)


def _named(data_dir: Path | None) -> Iterator[tuple[str, Path]]:
    named = os.environ.get("ISMN_DATA_DIR")
    if data_dir is not None:
        yield "--data-dir", data_dir
    if named:
        yield "ISMN_DATA_DIR", Path(named)
