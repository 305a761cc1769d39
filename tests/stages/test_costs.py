"""Costs: weights, memory and time of each system of a matrix, as they can be counted by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import RunRecord, SystemCost
from ismn_cli.core.store import Store
from ismn_cli.engine.groups import SIZE
from ismn_cli.stages import costs
from ismn_cli.stages.matrix import Finished, run_matrix

CLASSIFIER = 3 * 6 * 9 + 6 + 2 * 6 + 6 * 3 + 3
"""Convolution, batch norm and linear layer of the small world's net."""
CLEANER = 3 * 3 * 9 + 3


def ran(store: Store) -> Finished:
    mapping = {"name": "matrix", "defence": ["none", "ismn", "ddsa"], "attack": {"method": "fgsm", "eps": 0.1}}
    recipe = MatrixRecipe.model_validate(mapping | {"batch_size": 16})
    return run_matrix(recipe, store, None, "cpu", "run", lambda _: None)


@pytest.fixture
def three(trained: Any) -> dict[str, Any]:
    base = trained("classifier")
    made = {system: trained(system, classifier=base.run.record.id) for system in ("ismn", "ddsa")}
    return {"none": base} | made


def test_weights_are_those_of_the_classifier_that_answers_and_of_its_defence(store: Store, three: Any) -> None:
    found = ran(store).run.record.costs
    assert {name: (c.parameters, c.added_parameters) for name, c in found.items()} == {
        "none": (CLASSIFIER, 0),
        "ismn": (CLASSIFIER + CLEANER, CLEANER),  # its base is the attacker's stand-in and answers nothing
        "ddsa": (CLASSIFIER + CLEANER, CLEANER),
    }


def test_training_time_is_that_of_the_training(store: Store, three: Any) -> None:
    found = ran(store).run.record.costs
    for name, trained in three.items():
        seconds = trained.run.record.training_seconds
        assert seconds > 0 and found[name].training_seconds == seconds


def test_a_training_that_was_cut_has_no_time(store: Store, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ismn_cli.stages import train

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(train, "save_weights", killed)
        trained("classifier")
    assert trained("classifier").run.record.training_seconds is None


def test_memory_counts_weights_images_and_what_a_decision_makes(store: Store, three: Any) -> None:
    """The dearest moment: the images, six maps from the convolution and six more from batch norm or ReLU."""
    found = ran(store).run.record.costs["none"].peak_memory_mib * 2**20
    maps = SIZE * 6 * 8 * 8 * 4
    weights = (CLASSIFIER + 2 * 6) * 4 + 8 + 4  # statistics and counter of batch norm; the threshold
    fixed = weights + 16 * 3 * 8 * 8 * 4
    assert fixed + 2 * maps <= found < fixed + 3 * maps


def test_latency_is_the_clean_cells(store: Store, three: Any) -> None:
    finished = ran(store)
    clean = {r.cell.defence.name: r for r in finished.results if r.attacked is None}
    for name, cost in finished.run.record.costs.items():
        assert cost.latency_ms == pytest.approx(1000 * clean[name].judge_seconds / 60)


def test_a_repeated_run_measures_nothing_again(store: Store, three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ran(store).run.record
    monkeypatch.setattr(costs, "_cost", lambda *_: pytest.fail("measured again"))
    assert ran(store).run.record.costs == first.costs


def test_what_cannot_be_measured_is_a_note(store: Store, three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = costs._peak

    def fussy(pipeline: Any, matrix: Any) -> int:
        if pipeline.defence.policy == "route":
            raise torch.cuda.OutOfMemoryError("too small")
        return real(pipeline, matrix)

    monkeypatch.setattr(costs, "_peak", fussy)
    record = ran(store).run.record
    assert set(record.costs) == {"none", "ddsa"} and record.status == "done"
    assert any("cost of ismn" in note and "too small" in note for note in record.notes)


def test_records_from_before_there_were_costs_still_load(store: Store, three: Any) -> None:
    run = ran(store).run
    path = run.folder / "record.json"
    old = json.loads(path.read_text())
    del old["costs"], old["training_seconds"]
    path.write_text(json.dumps(old))
    assert store.run(run.record.id).record.costs == {}
    assert RunRecord.model_validate(run.record.model_dump()).costs["none"] == run.record.costs["none"]
    assert SystemCost(parameters=1, added_parameters=0).peak_memory_mib is None
