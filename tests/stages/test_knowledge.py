"""The knowledge levels in a matrix: what is shared, what is pinned, what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ismn_cli.attacks import adapter
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice, MatrixRecipe
from ismn_cli.core.records import Answers, CellResult, Outcome
from ismn_cli.core.specs import Knowledge
from ismn_cli.core.store import Store
from ismn_cli.data.loading import load_dataset
from ismn_cli.stages.jobs import tally, verdict
from ismn_cli.stages.matrix import Finished, run_matrix
from ismn_cli.stages.plan import plan_matrix
from ismn_cli.threats.worst_case import BROKEN, HOLDS, REFUSED

EPS = 0.06


def _recipe(**changes: Any) -> MatrixRecipe:
    mapping = {"name": "matrix", "defence": ["none", "ddsa"], "attack": {"method": "fgsm", "eps": EPS}} | changes
    return MatrixRecipe.model_validate(mapping)


def _run(store: Store, **changes: Any) -> Finished:
    return run_matrix(_recipe(**changes), store, None, "cpu", "run", lambda _: None)


def _attacked(finished: Finished, **wanted: str) -> list[CellResult]:
    return [
        r
        for r in finished.results
        if r.attacked and all(str(getattr(r.cell, k)) == v for k, v in wanted.items() if k != "defence")
        and wanted.get("defence") in (None, r.cell.defence.name)
    ]


@pytest.fixture
def systems(trained) -> dict[str, str]:
    base = trained("classifier").run.record.id
    runs = {name: trained(name, classifier=base).run.record.id for name in ("ddsa", "magnet", "ismn")}
    twin = trained("classifier", seed=1, config={"width": 8}).run.record.id
    return runs | {"base": base, "twin": twin}


def test_transferred_examples_are_made_once_and_pin_their_source(
    store: Store, systems: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted: list[int] = []
    real = adapter.make_attack

    def counting(*spec: Any) -> Any:
        attack = real(*spec)
        return lambda model, x, y: crafted.append(len(x)) or attack(model, x, y)

    monkeypatch.setattr(adapter, "make_attack", counting)
    levels = {"knowledge": "black", "weights": systems["base"]}
    first = _run(store, transfer=f"none@{systems['twin']}", **levels)
    assert sum(crafted) == 60
    assert len({r.cell.examples_key() for r in _attacked(first)}) == 1
    other = _run(store, transfer=f"ddsa@{systems['ddsa']}", **levels)
    assert sum(crafted) == 120
    assert {s.name for r in _attacked(other) for s in r.cell.sources} == {"ddsa"}
    assert not {r.cell.key() for r in _attacked(first)} & {r.cell.key() for r in _attacked(other)}


def test_queries_need_no_source(store: Store, systems: dict[str, str]) -> None:
    attack = {"method": "square", "eps": EPS, "params": {"square": {"n_queries": 20}}}
    finished = _run(store, knowledge="black", attack=attack, transfer="sign-decoder", defence=["ddsa"])
    (result,) = _attacked(finished)
    assert not result.cell.sources and result.forwards > 60 and result.backwards == 0


def test_an_adaptive_attacker_is_no_weaker_than_the_others(store: Store, systems: dict[str, str]) -> None:
    finished = _run(store, knowledge=["gray", "white", "adaptive"], defence=["none", "ddsa", "ismn", "magnet"])
    for name in ("none", "ddsa", "ismn", "magnet"):
        robust = {
            level: {i for i, o in enumerate(r.outcomes()) if o is Outcome.SURVIVED}
            for level in ("gray", "white", "adaptive")
            for r in _attacked(finished, knowledge=level, defence=name)
        }
        assert robust["adaptive"] <= robust["gray"], name
        if name in ("ddsa", "ismn"):  # FGSM draws nothing at random: the same gradient, the same example
            assert robust["adaptive"] <= robust["white"], name


def test_the_view_that_broke_each_sample_is_kept(store: Store, systems: dict[str, str]) -> None:
    finished = _run(store, knowledge="adaptive", defence=["ismn"])
    (result,) = _attacked(finished)
    assert set(result.via) <= {"", "reformed", "clean-route", "system", "bare classifier"}
    wrong = [p != label for p, label in zip(result.clean.predicted, result.labels, strict=True)]
    assert [via == "" for via in result.via] == wrong
    assert result.queries >= 60


def test_random_systems_are_asked_several_times_and_averaged_over(store: Store, systems: dict[str, str]) -> None:
    changes = {"knowledge": ["gray", "white"], "defence": ["none", "median"], "draws": 4}
    finished = _run(store, attack={"method": "fgsm", "eps": EPS, "eot": 3}, **changes)
    for result in finished.results:
        random = result.cell.defence.name == "median"
        assert result.cell.draws == (4 if random else 1)
        assert (result.draws_clean is not None) is random
        if result.attacked is None:
            continue
        white = result.cell.knowledge is Knowledge.WHITE
        assert result.cell.attack.eot == (3 if random and white else 1)
        assert result.forwards == 60 * result.cell.attack.eot
        assert any("EOT" in note for note in result.notes) is (random and white)
        if random:
            first = [p == label for p, label in zip(result.attacked.predicted, result.labels, strict=True)]
            assert all(right >= 1 for right, now in zip(result.draws_attacked.right, first, strict=True) if now)
            assert any(0 < right < 4 for right in result.draws_attacked.right)


def test_the_plan_refuses_what_would_change_nothing(store: Store, systems: dict[str, str]) -> None:
    for changes, says in (
        ({"attack": {"method": "pgd", "method_at": {"black": ["square"]}}}, "not among the knowledge levels"),
        ({"attack": {"method": "pgd", "params": {"square": {"n_queries": 5}}}}, "not among the attacks"),
        ({"knowledge": "black", "transfer": "none@no-such-run"}, "no-such-run"),
    ):
        with pytest.raises(UsageError, match=says):
            plan_matrix(_recipe(**changes), store, None, "cpu")


def _answers(predicted: list[int], rejected: list[bool]) -> Answers:
    n = len(predicted)
    zero = (0,) * n
    return Answers(predicted=predicted, flagged=rejected, rejected=rejected, score=(0.0,) * n, loops=zero)


def test_the_majority_of_draws() -> None:
    drawn = [
        _answers([0, 0, 1, 2, 0], [False, False, False, False, True]),
        _answers([0, 1, 1, 1, 0], [False, False, False, False, True]),
        _answers([0, 0, 0, 0, 0], [False, False, False, False, False]),
    ]
    draws = tally(drawn, [0, 0, 0, 0, 0])
    assert draws.k == 3 and draws.right == (3, 2, 1, 1, 1)
    assert draws.majority_right == (True, True, False, False, False)
    assert tally(drawn[:1], [0] * 5) is None


def test_the_verdict_ranks_wrong_over_refused_over_right(store: Store, systems: dict[str, str]) -> None:
    finished = _run(store, defence=["magnet"])
    pipeline = finished.systems[0].pipeline
    x = load_dataset(DataChoice(name="cifar10"), "test", None).floats()
    decision = pipeline.decide(x)
    y = decision.logits.argmax(1)
    y[::2] = (y[::2] + 1) % 3
    ranks = verdict(pipeline, 0, 1)(x, y)
    wanted = torch.where(decision.rejected, REFUSED, torch.where(decision.logits.argmax(1) == y, HOLDS, BROKEN))
    assert ranks.tolist() == wanted.tolist()
    assert set(ranks.tolist()) >= {HOLDS, BROKEN}




SURVIVORS = {
    "knowledge": ["gray", "white"],
    "attack": {"method": ["fgsm", "bim"], "eps": [0.1, 0.15, 0.2]},
    "defence": ["none", "ismn"],
}
"""Attacks that draw nothing at random: a sample's example does not depend on who else is attacked."""


def test_survivors_end_in_the_same_worst_case_at_less_cost(store: Store, systems: dict[str, str]) -> None:
    full, few = (_run(store, **SURVIVORS, survivors=survivors) for survivors in (False, True))
    assert [r.cell.key() for r in _attacked(full, knowledge="gray")] == [
        r.cell.key() for r in _attacked(few, knowledge="gray")
    ]
    for name in ("none", "ismn"):
        whole, cut = (_attacked(f, knowledge="white", defence=name) for f in (full, few))
        for last in cut:
            tried = [*last.cell.after, last.cell.attack]
            outcomes = [r.outcomes() for r in whole if r.cell.attack in tried]
            worst = [Outcome.BROKEN in o or Outcome.WRONG_CLEAN in o for o in zip(*outcomes, strict=True)]
            assert [o is not Outcome.SURVIVED for o in last.outcomes()] == worst
            assert max(last.linf) <= last.cell.attack.threat.eps + 1e-6
        assert sum(r.backwards for r in cut) < sum(r.backwards for r in whole)
        assert all(r.carried == 60 - r.forwards // (10 if r.cell.attack.method == "bim" else 1) for r in cut)


def test_survivors_are_attacked_from_the_smallest_eps_up(store: Store, systems: dict[str, str]) -> None:
    attack = {"method": ["bim", "fgsm"], "eps": [EPS, 0.03]}
    finished = _run(store, knowledge="white", attack=attack, survivors=True, defence=["none"])
    # At one size the cheap one first, whatever the recipe's order.
    order = [("fgsm", 0.03), ("bim", 0.03), ("fgsm", EPS), ("bim", EPS)]
    for result in _attacked(finished):
        place = order.index((result.cell.attack.method, result.cell.attack.threat.eps))
        assert [(a.method, a.threat.eps) for a in result.cell.after] == order[:place]


def test_an_optional_system_without_weights_is_left_out_with_the_reason(
    store: Store, systems: dict[str, str]
) -> None:
    finished = _run(store, defence=["none", "at"], optional="at")
    assert [s.subject.name for s in finished.systems] == ["none"]
    (reason,) = (note for note in finished.run.record.notes if note.startswith("at is left out"))
    assert "ismn train" in reason and "--system at" in reason
    for changes in ({"defence": ["none", "at"]}, {"defence": ["at"], "optional": "at"}):
        with pytest.raises(UsageError):
            _run(store, **changes)


def test_a_step_without_gradients_is_told(store: Store, systems: dict[str, str]) -> None:
    changes = {"knowledge": ["white", "adaptive"], "defence": ["none", "jpeg"]}
    finished = _run(store, attack={"method": "fgsm", "eps": EPS}, **changes)
    for result in _attacked(finished):
        around = result.cell.defence.name == "jpeg" and result.cell.knowledge is Knowledge.ADAPTIVE
        assert any("BPDA" in note for note in result.notes) is around
    (white,) = _attacked(finished, knowledge="white", defence="jpeg")
    assert set(white.outcomes()) <= {Outcome.UNKNOWN, Outcome.WRONG_CLEAN}
    assert any("gives none" in note for note in white.notes)
