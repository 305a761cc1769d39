from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import small_world
from s3_server import s3, server  # noqa: F401 - fixtures

from ismn_cli.cli import console
from ismn_cli.cli.app import exit_code
from ismn_cli.core import catalogue
from ismn_cli.core.store import Store
from ismn_cli.stages import resolve


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Ismn = Callable[..., Ended]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the small world in place of the real one for a test; return the folder of its released weights."""
    released = tmp_path / "released"
    released.mkdir()
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ISMN_DATA_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    for table in (catalogue.SYSTEMS, catalogue.TRAINABLE, catalogue.DATASETS):
        for name, entry in dict(table).items():
            monkeypatch.setitem(table, name, entry)
    monkeypatch.setattr(resolve, "released_folder", resolve.released_folder)
    small_world.install(released)
    yield released
    console.people.cache_clear()


@pytest.fixture
def store(small: Path) -> Store:
    return Store.open(None)


@pytest.fixture
def ismn(small: Path, capsys: pytest.CaptureFixture[str]) -> Ismn:
    """Run a command line in this process."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        console.people.cache_clear()
        code = exit_code(arguments)
        return Ended(code, *capsys.readouterr())

    return run
