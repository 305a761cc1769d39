"""A matrix with trainings of its own: trained once, taken from there, checked before the first begins."""

from __future__ import annotations

from typing import Any

import pytest
import small_world

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipe_files import validate
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.store import Store
from ismn_cli.stages import trainings
from ismn_cli.stages.plan import plan_matrix
from ismn_cli.stages.train import Trained

TRAINING: dict[str, Any] = {
    "wide": {"system": "classifier", "config": {"width": 9}, "limit": 30},
    "narrow": {"system": "classifier"},
    "cleaner": {"system": "ddsa", "classifier": "narrow", "epochs": 1},
    "router": {"system": "ismn", "classifier": "wide"},
}


def _recipe(**changes: Any) -> MatrixRecipe:
    mapping = {"name": "whole", "defence": ["none", "ddsa", "ismn", "median"], "attack": {"method": "fgsm"}}
    recipe = validate(mapping | {"training": TRAINING, "dataset": {"limit": 45}} | changes)
    assert isinstance(recipe, MatrixRecipe)
    return recipe


def _carry_out(recipe: MatrixRecipe, store: Store) -> tuple[Any, dict[str, Trained]]:
    seen: dict[str, Trained] = {}
    steps = trainings.run_steps(recipe, store, None, "cpu", lambda _: None, seen.__setitem__)
    return plan_matrix(recipe, store, None, "cpu", steps=steps), seen


def test_each_defence_is_taken_from_the_step_that_trains_it(store: Store, trained) -> None:
    stray = [trained("classifier", seed=8), trained("ddsa", seed=8, classifier="fresh")]
    matrix, seen = _carry_out(_recipe(), store)
    assert list(seen) == list(TRAINING)
    ids = {name: step.run.record.id for name, step in seen.items()}
    assert not set(ids.values()) & {run.run.record.id for run in stray}
    origins = {system.subject.name: system.origin for system in matrix.systems}
    wanted = {"none": "wide", "ddsa": "cleaner", "ismn": "router", "median": "wide"}
    assert origins == {name: f"run {ids[step]}" for name, step in wanted.items()}
    width = {s.subject.name: s.pipeline.base.conv.out_channels for s in matrix.systems}
    assert width == {"none": 9, "ddsa": small_world.PlainConfig().width, "ismn": 9, "median": 9}


def test_steps_train_on_so_many_images(store: Store) -> None:
    _, seen = _carry_out(_recipe(), store)
    counts = {name: step.run.record.recipe["dataset"]["limit"] for name, step in seen.items()}
    assert counts == {"wide": 30, "narrow": 45, "cleaner": 45, "router": 45}


def test_what_is_trained_is_not_trained_again(store: Store) -> None:
    first, _ = _carry_out(_recipe(), store)
    again, seen = _carry_out(_recipe(), store)
    assert all(step.already for step in seen.values())
    assert again.identity() == first.identity()
    _, other = _carry_out(_recipe(training=TRAINING | {"router": TRAINING["router"] | {"epochs": 3}}), store)
    assert [name for name, step in other.items() if not step.already] == ["router"]


def test_a_step_stopped_in_the_middle_is_continued(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = trainings.train, []

    def stopped(recipe, *rest: Any, **more: Any) -> Trained:
        calls.append(recipe.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(recipe, *rest, **more)

    monkeypatch.setattr(trainings, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        _carry_out(_recipe(), store)
    _, seen = _carry_out(_recipe(), store)
    assert [name for name, step in seen.items() if step.already] == ["wide", "narrow"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"cleaner": TRAINING["cleaner"], "narrow": TRAINING["narrow"]}}, "comes after it"),
        ({"training": {"cleaner": {"system": "ddsa", "classifier": "no-such-run"}}}, "no runs in"),
        ({"training": {"a": {"system": "classifier"}}, "attack": {"method": "pgd", "params": {"pgd": {"stepz": 3}}}},
         "stepz"),
        ({"training": {"a": {"system": "classifier", "classifier_config": {"width": 4}}}}, "classifier_config"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_is_trained(changes: Any, says: str, store: Store) -> None:
    with pytest.raises(UsageError, match=says):
        trainings.run_steps(_recipe(**changes), store, None, "cpu", lambda _: None)
    assert not list(store.runs())


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"system": "ddsaa"}, "training.a.system: there is no system to train called 'ddsaa'; did you mean 'ddsa'"),
        ({"system": "classifier", "config": {"widht": 3}}, "a.config.widht: unknown key; did you mean 'width'"),
        ({"system": "ddsa", "classifier_config": {"lrr": 3}}, "training.a.classifier_config.lrr: unknown key"),
        ({"system": "classifier", "epochs": 0}, "training.a.epochs"),
        ({"sistem": "classifier"}, "sistem"),
    ],
)
@pytest.mark.usefixtures("released")
def test_the_recipe_says_which_step_is_wrong(step: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        _recipe(training={"a": step})
    assert says in refused.value.message
