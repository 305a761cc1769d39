"""The small world of tests/cli, for the use cases below the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

import small_world

from ismn_cli.core import catalogue
from ismn_cli.core.recipes import TrainRecipe
from ismn_cli.core.store import Store
from ismn_cli.stages import resolve
from ismn_cli.stages.train import Trained, train

Train = Callable[..., Trained]


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the small world in place of the real one; return the folder of its released weights."""
    folder = tmp_path / "released"
    folder.mkdir()
    for table in (catalogue.SYSTEMS, catalogue.TRAINABLE, catalogue.DATASETS):
        for name, entry in dict(table).items():
            monkeypatch.setitem(table, name, entry)
    monkeypatch.setattr(resolve, "released_folder", resolve.released_folder)
    small_world.install(folder)
    yield folder


@pytest.fixture
def store(released: Path, tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


@pytest.fixture
def trained(store: Store) -> Train:
    """Train a system of the small world; keywords are the recipe's."""

    def run(system: str = "classifier", fresh: bool = False, **recipe: object) -> Trained:
        whole = TrainRecipe.model_validate({"name": f"train-{system}", "system": system} | recipe)
        return train(whole, store, None, "cpu", lambda _: None, fresh)

    return run


@pytest.fixture
def defences(trained: Train) -> None:
    """Train ddsa and magnet before one classifier."""
    base = trained("classifier").run.record.id
    for system in ("ddsa", "magnet"):
        trained(system, classifier=base)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder for code of the user's own, with nothing imported from another test's."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder
