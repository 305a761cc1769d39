"""`--plan`: what a recipe would do is what it then does; nothing is done; systems without weights are listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import small_world

from ismn_cli.core.errors import UsageError
from ismn_cli.core.outlook import Outlook
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
from ismn_cli.core.store import Store
from ismn_cli.reporting.outlook_table import outlook_headline, outlook_lines, outlook_sheets
from ismn_cli.stages.matrix import run_matrix
from ismn_cli.stages.outlook import outlook
from ismn_cli.stages.train import Trained
from ismn_cli.stages.trainings import run_steps

Train = Callable[..., Trained]
STEPS = {"base": {"system": "classifier", "epochs": 1}, "own": {"system": "ismn", "classifier": "base", "epochs": 1}}


def matrix(**changes: object) -> MatrixRecipe:
    whole = {"name": "m", "defence": ["none"], "attack": {"method": "fgsm", "eps": [0.1, 0.2]}, "batch_size": 8}
    return MatrixRecipe.model_validate(whole | {"dataset": {"limit": 10}} | changes)


def look(recipe: MatrixRecipe | TrainRecipe, store: Store) -> Outlook:
    return outlook(recipe, store, None, "cpu")


def files(store: Store) -> set[Path]:
    return set(store.root.rglob("*"))


def test_cells_to_compute_are_those_that_are_then_computed(store: Store, trained: Train) -> None:
    trained("classifier")
    trained("magnet", classifier="auto")
    recipe = matrix(defence=["none", "magnet"], knowledge=["gray", "adaptive"])
    before, kept = files(store), look(recipe, store)
    assert files(store) == before
    shown = [(each.name, each.ready, each.cells, each.stored) for each in kept.systems]
    assert shown == [("none", True, 5, 0), ("magnet", True, 5, 0)]
    finished = run_matrix(recipe, store, None, "cpu", "run", lambda _: None)
    assert len(finished.results) == sum(system.cells for system in kept.systems)
    assert [system.stored for system in look(recipe, store).systems] == [5, 5]
    assert [s.stored for s in look(matrix(defence=["none", "magnet"]), store).systems] == [3, 3]


def test_systems_without_weights_are_listed_with_what_to_do(store: Store, trained: Train) -> None:
    trained("classifier")
    found = look(matrix(defence=["none", "ddsa"]), store)
    assert [system.ready for system in found.systems] == [True, False]
    assert "ismn train --system ddsa" in found.systems[1].origin
    assert {each.system for each in found.footprints} == {"none", "ddsa"}


def test_a_recipe_trains_first_what_the_plan_says(store: Store) -> None:
    recipe = matrix(defence=["none", "ismn", "median"], training=STEPS)
    planned = look(recipe, store)
    assert [(t.name, t.done) for t in planned.trainings] == [("base", None), ("own", None)]
    assert planned.trainings[1].epochs == {"cleaning": 1}
    assert [s.origin for s in planned.systems] == [
        "trained first, in step base",
        "trained first, in step own",
        "trained first, in step base",
    ]
    assert all(system.ready and not system.stored for system in planned.systems)
    steps = run_steps(recipe, store, None, "cpu", lambda _: None)
    again = look(recipe, store)
    assert {t.name: t.done for t in again.trainings} == steps.runs
    assert [f"run {steps.runs['own']}" in s.origin for s in again.systems] == [False, True, False]


def test_the_plan_of_a_training(store: Store, trained: Train) -> None:
    recipe = TrainRecipe(name="train-ismn", system="ismn", seed=3)
    found = look(recipe, store)
    (training,) = found.trainings
    assert (training.images, training.done, training.base) == (small_world.COUNTS["train"], None, "trained first")
    assert training.epochs == {"base": 8, "cleaning": 2}
    assert [each.step for each in found.footprints] == ["training, base", "training, cleaning"]
    assert found.systems == ()
    done = trained("ismn", seed=3)
    assert look(recipe, store).trainings[0].done == done.run.record.id


def test_memory_grows_with_batch_and_draws(store: Store, trained: Train) -> None:
    trained("classifier")

    def peak(**changes: object) -> int:
        whole = {"defence": ["median"], "knowledge": ["white"], "dataset": {"limit": 60}}
        (found,) = look(matrix(**(whole | changes)), store).footprints
        assert found.peak is not None
        return found.peak

    few, many = peak(batch_size=6), peak(batch_size=60)
    assert 2 * few < many < 10 * few
    assert peak(batch_size=6000) == many  # there are sixty images
    averaged = peak(batch_size=60, attack={"method": "fgsm", "eps": [0.1], "eot": 40})
    assert averaged > 2 * many


def test_what_would_stop_the_recipe_stops_the_plan(store: Store, trained: Train) -> None:
    trained("classifier")
    with pytest.raises(UsageError, match="system"):
        look(matrix(defence=["nothing"]), store)
    with pytest.raises(UsageError, match="steps"):
        look(matrix(attack={"method": "fgsm", "params": {"fgsm": {"steps": 3}}}), store)
    with pytest.raises(UsageError, match="Device"):
        outlook(matrix(), store, None, "cuda:99")


def test_a_stage_that_needs_numbers_says_so_and_spares_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = small_world.Descent.step

    def step(self: small_world.Descent, x: object, *rest: object) -> dict[str, float]:
        if self.name == "cleaning":
            x.numpy()  # type: ignore[attr-defined]
        return original(self, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(small_world.Descent, "step", step)
    base, cleaning = look(TrainRecipe(name="train-ismn", system="ismn"), store).footprints
    assert base.peak is not None
    assert cleaning.peak is None
    assert cleaning.fits is None
    assert "what images show" in cleaning.note


def test_tables_show_every_figure(store: Store, trained: Train) -> None:
    trained("classifier")
    found = look(matrix(defence=["none", "ddsa"], training={}), store)
    sheets = outlook_sheets(found)
    assert [sheet.title for sheet in sheets] == ["Systems", "Memory of a step"]
    headline = "m: 0 trainings to be done; 6 cells to compute, 0 stored. 10 test images of cifar10."
    assert outlook_headline(found) == headline
    assert all(len(row) == len(sheet.head) for sheet in sheets for row in sheet.rows)
    assert [row[0] for row in sheets[1].rows] == ["none", "ddsa"]
    assert any("are free on cpu" in line for line in outlook_lines(found))
