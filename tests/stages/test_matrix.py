"""The matrix: cells as the architecture defines them, nothing computed twice, failures shown as such."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks import adapter
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice, MatrixRecipe
from ismn_cli.core.records import Outcome
from ismn_cli.core.specs import Knowledge
from ismn_cli.core.store import Store
from ismn_cli.data.loading import load_dataset
from ismn_cli.engine.groups import SIZE
from ismn_cli.engine.passes import Plain
from ismn_cli.stages import cells, matrix
from ismn_cli.stages.matrix import Finished, MatrixProgress, run_matrix
from ismn_models.pipeline import Pipeline


def _run(store: Store, on_progress: Any = lambda _: None, **changes: Any) -> Finished:
    mapping = {"name": "matrix", "defence": ["none", "ddsa"], "attack": {"method": "pgd", "eps": 0.2}} | changes
    recipe = MatrixRecipe.model_validate(mapping)
    return run_matrix(recipe, store, None, "cpu", "run", on_progress)


@pytest.mark.usefixtures("defences")
def test_cells_agree_with_a_bare_loop(store: Store) -> None:
    finished = _run(store, attack={"method": "fgsm", "eps": 0.2}, defence=["ddsa", "none"], batch_size=7)
    images = load_dataset(DataChoice(name="cifar10"), "test", None)
    x, y = images.floats(), images.labels
    by_name = {s.subject.name: s.pipeline for s in finished.systems}
    point = x.clone().requires_grad_()
    nn.functional.cross_entropy(by_name["none"].base(point), y, reduction="sum").backward()
    adversarial = (x + 0.2 * point.grad.sign()).clamp(0, 1)
    assert [(r.cell.defence.name, r.cell.knowledge) for r in finished.results] == [
        ("ddsa", Knowledge.CLEAN), ("ddsa", Knowledge.GRAY), ("none", Knowledge.CLEAN), ("none", Knowledge.GRAY),
    ]  # fmt: skip
    for result in finished.results:
        pipeline = by_name[result.cell.defence.name]
        with torch.no_grad():
            assert result.clean.predicted == tuple(pipeline(x).argmax(1).tolist())
            if result.attacked:
                assert result.attacked.predicted == tuple(pipeline(adversarial).argmax(1).tolist())
                assert max(result.linf) == pytest.approx(0.2, abs=1e-6)
        assert result.labels == tuple(y.tolist()) and result.ids == tuple(range(60))


@pytest.mark.usefixtures("defences")
def test_gray_examples_are_crafted_once_for_all_defences(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    crafted: list[int] = []
    monkeypatch.setattr(adapter, "make_attack", lambda *_: lambda model, x, y: crafted.append(len(x)) or x)
    _run(store, defence=["none", "ddsa"])
    assert sum(crafted) == 60
    again = _run(store, defence=["none", "ddsa", "magnet"])
    assert sum(crafted) == 60 and again.stored == 4 and len(again.results) == 6


@pytest.mark.usefixtures("defences")
def test_knowledge_decides_which_module_is_attacked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[nn.Module] = []
    monkeypatch.setattr(adapter, "make_attack", lambda *_: lambda model, x, y: attacked.append(model.model) or x)
    finished = _run(store, defence=["ddsa"], knowledge=["gray", "white"], batch_size=60, search="fp32")
    pipeline = finished.systems[0].pipeline
    gray, white = dict.fromkeys(attacked)
    assert isinstance(gray, Plain) and gray.net is pipeline.base
    assert isinstance(white, Pipeline) and white.defence is pipeline.defence
    assert isinstance(white.base, Plain) and white.base.net is pipeline.base


@pytest.mark.usefixtures("defences")
def test_a_crash_is_unknown_and_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if len(x) < SIZE:
            raise ValueError("no such luck")
        return x

    monkeypatch.setattr(adapter, "make_attack", lambda *_: crash)
    for _ in range(2):  # the second time from the stored examples
        (result,) = (r for r in _run(store, defence=["none"]).results if r.attacked)
        right = [p == label for p, label in zip(result.clean.predicted, result.labels, strict=True)]
        full = 60 // SIZE * SIZE
        assert [o is Outcome.UNKNOWN for o in result.outcomes()] == [r and i >= full for i, r in enumerate(right)]
        assert any("no such luck" in note for note in result.notes)
        for path in (store.root / "cells").glob("*/*"):
            path.unlink()


@pytest.mark.usefixtures("defences")
def test_progress_counts_to_the_end_with_the_running_score(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MatrixProgress] = []
    monkeypatch.setattr(matrix, "TOLD_EVERY", float("inf"))  # whole batches only
    finished = _run(store, on_progress=seen.append)
    pairs = [p for p in seen if p.stage == "ceilings"]
    assert pairs[-1].done == pairs[-1].total == 60 * 40 / 2
    seen = [p for p in seen if p.stage == "matrix"]
    assert [p.done for p in seen] == sorted({p.done for p in seen})
    assert seen[-1].done == seen[-1].total == 60 * 3
    (last,) = (r for r in finished.results if r.attacked and r.cell.defence.name == "ddsa")
    outcomes = [str(outcome) for outcome in last.outcomes()]
    assert seen[-1].score == {name: outcomes.count(name) for name in set(outcomes)}


@pytest.mark.usefixtures("defences")
def test_progress_knows_that_attacks_differ_in_cost(store: Store) -> None:
    seen: list[MatrixProgress] = []
    params = {"pgd": {"steps": 40}}
    _run(store, seen.append, defence="none", attack={"method": ["fgsm", "pgd"], "eps": 0.2, "params": params})
    shares = {p.label: p.share for p in seen if p.stage == "matrix" and p.done % 60 == 0}
    # Clean 1 pass, FGSM 2 and its verdict, PGD 80 and its verdict.
    assert list(shares.values()) == pytest.approx([1 / 85, 4 / 85, 1])


@pytest.mark.usefixtures("defences")
def test_a_batch_under_way_is_told_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MatrixProgress] = []
    monkeypatch.setattr(matrix, "TOLD_EVERY", 0.0)
    attack = {"method": ["fgsm", "pgd"], "eps": 0.001, "params": {"pgd": {"steps": 7}}}
    _run(store, seen.append, attack=attack, defence="none", batch_size=32)
    shares = [(p.done, p.share) for p in seen if p.stage == "matrix"]
    assert shares == sorted(shares) and shares[-1] == (180, 1)
    pgd = {p.done: p.label for p in seen if p.label.startswith("pgd")}
    assert list(pgd) == [120, 120 + 32, 180]  # 120: under way, and nothing is done of it
    assert len({share for done, share in shares if done == 120}) > 7


@pytest.mark.usefixtures("defences")
def test_telling_of_a_batch_under_way_does_no_harm(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done = [0]

    def fail(progress: MatrixProgress) -> None:
        if progress.stage == "matrix":
            if progress.done == done[-1]:
                raise OSError("the terminal is gone")
            done.append(progress.done)

    monkeypatch.setattr(matrix, "TOLD_EVERY", 0.0)
    finished = _run(store, fail, defence="none", batch_size=60)
    assert done == [0, 60, 120] and not any(any(r.failed) for r in finished.results if r.failed)


@pytest.mark.usefixtures("defences")
def test_an_interrupted_run_is_marked_and_continued(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: MatrixProgress) -> None:
        if progress.done > 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(store, on_progress=interrupt)
    interrupted = store.run("latest").record
    assert interrupted.status == "interrupted"
    crafted: list[int] = []
    real = cells.Bench._craft
    monkeypatch.setattr(cells.Bench, "_craft", lambda self, *rest: crafted.append(1) or real(self, *rest))
    continued = _run(store).run.record
    assert continued.id == interrupted.id and continued.status == "done" and len(crafted) == 1


@pytest.mark.usefixtures("defences")
def test_batches_of_other_samples_are_not_used(store: Store) -> None:
    first = _run(store, defence=["none"])
    key = first.results[1].cell.examples_key()
    arrays = store.examples(key).read(0)[0]
    arrays["ids"] = arrays["ids"] + 1
    arrays["adversarial"] = arrays["adversarial"] * 0
    store.examples(key).put_batch(0, arrays, {})
    for path in (store.root / "cells").glob("*/*"):
        path.unlink()
    assert _run(store, defence=["none"]).results[1].attacked == first.results[1].attacked


@pytest.mark.usefixtures("defences")
def test_seeds_and_batches_name_other_cells(store: Store) -> None:
    keys = {r.cell.key() for change in ({}, {"seed": 1}, {"batch_size": 8}) for r in _run(store, **change).results}
    assert len(keys) == 12


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"knowledge": "white", "attack": {"method_at": {"black": "square"}}}, "not among the knowledge levels"),
        ({"attack": {"method": "pgd", "params": {"fgsm": {}}}}, "not among the attacks"),
        ({"attack": {"method": "pgd", "norm": "l2"}}, "not in l2"),
        ({"defence": ["none", "nonesuch"]}, "nonesuch"),
    ],
)
@pytest.mark.usefixtures("defences")
def test_errors_come_before_any_work(store: Store, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        _run(store, **changes)
    assert not (store.root / "cells").exists() and all(run.record.kind == "train" for run in store.runs())
