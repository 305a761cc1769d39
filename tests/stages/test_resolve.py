"""Which weights a name stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_world
import torch

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import DataKind
from ismn_cli.core.store import Store
from ismn_cli.stages.release import release
from ismn_cli.stages.resolve import Resolved, base_of, resolve
from ismn_cli.stages.weights import tensor_hash
from ismn_models.shape import Shape


def _resolve(store: Store, name: str, weights: str = "auto", prefer: str | None = None) -> Resolved:
    return resolve(name, weights, store, small_world.KIND, prefer)


def test_nothing_trained_and_nothing_released(store: Store) -> None:
    for name in ("none", "magnet", "jpeg"):
        with pytest.raises(UsageError) as error:
            _resolve(store, name)
        assert "ismn train" in error.value.hint


def test_the_newest_finished_training_is_taken_before_the_released_one(trained, store: Store, released: Path) -> None:
    first = trained("classifier").run.record
    release({"classifier": first.id}, released, store, None)
    assert _resolve(store, "none", "released").origin == "the released weights"
    second = trained("classifier", seed=1).run
    assert second.record.id in _resolve(store, "none").origin
    second.update(status="interrupted")
    assert first.id in _resolve(store, "none").origin
    store.run(first.id).update(status="running")
    assert _resolve(store, "none").origin == "the released weights"


def test_the_undefended_system_is_the_base_of_whatever_was_trained_last(trained, store: Store) -> None:
    ismn = trained("ismn").run.record
    none = _resolve(store, "none")
    assert ismn.id in none.origin
    assert none.base == _resolve(store, "ismn").base
    assert none.subject.weights == none.base.weights == tensor_hash(none.pipeline.base)
    assert type(none.pipeline.defence).__name__ == "Defence"


def test_a_named_run_serves_its_own_system_and_others_around_its_base(trained, store: Store) -> None:
    base = trained("classifier").run.record.id
    other = trained("classifier", seed=1).run.record.id
    around_base = trained("magnet", classifier=base).run.record.id
    trained("magnet", classifier=other)
    assert around_base in _resolve(store, "magnet", base).origin
    assert around_base in _resolve(store, "magnet", around_base).origin
    with pytest.raises(UsageError, match="no ddsa around its base"):
        _resolve(store, "ddsa", base)


def test_a_preferred_base_decides_where_there_is_a_choice(trained, store: Store) -> None:
    first, second = (trained("classifier", seed=seed).run.record.id for seed in (0, 1))
    near = trained("ddsa", classifier=first).run.record.id
    far = trained("ddsa", classifier=second).run.record.id
    wanted = _resolve(store, "none", first).base.weights
    assert far in _resolve(store, "ddsa").origin
    assert near in _resolve(store, "ddsa", prefer=wanted).origin
    assert far in _resolve(store, "ddsa", prefer="0" * 64).origin


def test_runs_that_trained_nothing_or_are_not_finished(trained, store: Store) -> None:
    run = trained("classifier").run
    run.update(status="interrupted")
    with pytest.raises(UsageError, match="not finished"):
        _resolve(store, "none", run.record.id)


def test_settings_that_decide_are_part_of_the_subject(trained, store: Store) -> None:
    base = trained("classifier").run.record.id
    first = trained("magnet", classifier=base, config={"rate": 0.05}).run.record.id
    second = trained("magnet", classifier=base, config={"rate": 0.3}).run.record.id
    a, b = _resolve(store, "magnet", first), _resolve(store, "magnet", second)
    assert a.base == b.base and a.subject != b.subject


def test_weights_for_other_data_are_refused(trained, store: Store) -> None:
    run = trained("classifier").run.record.id
    with pytest.raises(UsageError, match="3 classes"):
        resolve("none", run, store, DataKind("cifar10", Shape(7)))


@pytest.mark.parametrize("kind", [DataKind("cifar10", Shape(7)), DataKind("mnist", small_world.KIND.shape)])
def test_the_newest_training_on_other_data_is_passed_over(kind: DataKind, trained, store: Store) -> None:
    trained("classifier")
    with pytest.raises(UsageError, match="none was trained here") as refused:
        resolve("none", "auto", store, kind)
    assert f"--dataset {kind.dataset}" in refused.value.hint


def test_a_base_of_another_width_comes_back_with_its_defence(trained, store: Store) -> None:
    base = trained("classifier", config={"width": 9}).run.record.id
    run = trained("magnet", classifier=base).run.record.id
    found = _resolve(store, "magnet", run)
    assert found.pipeline.base.conv.out_channels == 9
    assert tensor_hash(base_of(base, store, small_world.KIND).net) == found.base.weights


def test_a_resolved_system_is_ready_to_be_judged(trained, store: Store) -> None:
    trained("ismn")
    pipeline = _resolve(store, "ismn").pipeline
    assert not any(module.training for module in pipeline.modules())
    assert torch.isfinite(pipeline(torch.rand(2, 3, 8, 8))).all()
