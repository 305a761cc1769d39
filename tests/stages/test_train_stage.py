"""Training runs: one identity, one folder; what decides the weights decides the run."""

from __future__ import annotations

from typing import Any

import pytest

from ismn_cli.core.records import RunRecord
from ismn_cli.core.store import Store
from ismn_cli.stages.resolve import WEIGHTS
from ismn_cli.stages.weights import read_header


def test_the_record_tells_what_came_of_it(trained, store: Store) -> None:
    run = trained("ismn", config={"rate": 0.2}, epochs=2).run
    record: RunRecord = store.run(run.record.id).record
    assert record.status == "done" and record.finished and record.environment.device == "cpu"
    assert record.recipe["config"] == {"epochs": 2, "batch_size": 16, "lr": 0.01, "rate": 0.2, "policy": "pass"}
    assert set(record.figures) == {"base", "cleaning", "test"}
    assert 0 <= record.figures["test"]["false-positive rate"] <= 1
    header = read_header(run.folder / WEIGHTS)
    assert header.epochs == {"base": 2, "cleaning": 2} and header.images == 90
    assert header.base_config["width"] == 6 and header.config["rate"] == 0.2


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"epochs": 1}, {"config": {"lr": 0.2}}, {"dataset": {"limit": 30}}, {"precision": "fp32"}]
)
def test_what_decides_the_weights_decides_the_run(trained, changes: dict[str, Any]) -> None:
    first, second = trained("classifier").run.record, trained("classifier", **changes).run.record
    assert first.id != second.id


def test_the_same_training_is_one_run_however_its_base_was_named(trained, store: Store) -> None:
    base = trained("classifier").run.record.id
    first = trained("magnet", classifier=base)
    second = trained("magnet", classifier="auto", summary="in other words")
    assert not first.already and second.already and first.run.record.id == second.run.record.id


def test_weights_depend_on_the_seed_and_on_nothing_around(trained) -> None:
    import torch

    first = trained("ddsa", classifier="fresh").run.record.weights
    torch.manual_seed(99)
    torch.rand(7)
    again = trained("ddsa", classifier="fresh", fresh=True).run.record.weights
    other = trained("ddsa", classifier="fresh", seed=1).run.record.weights
    assert first == again != other


def test_a_fresh_base_is_the_one_that_the_classifier_training_gives(trained) -> None:
    alone = read_header(trained("classifier").run.folder / WEIGHTS)
    inside = read_header(trained("ismn").run.folder / WEIGHTS)
    assert set(inside.epochs) == {"base", "cleaning"} and inside.base_config == alone.base_config


def test_lost_weights_are_trained_again(trained) -> None:
    run = trained("classifier").run
    (run.folder / WEIGHTS).unlink()
    again = trained("classifier")
    assert not again.already and again.run.record.weights == run.record.weights
