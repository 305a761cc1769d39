"""The worst case against its definition, sample by sample, on random outcomes of random attacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_cells import a_cell, answers
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.core import rates
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import AttackSpec, Knowledge, Norm, Subject, ThreatModel
from ismn_cli.core.worst_case import Trials, trials

FEW = settings(max_examples=50, deadline=None)
SIZES = (0.1, 0.2, 0.3)
LEVELS = (Knowledge.GRAY, Knowledge.WHITE, Knowledge.ADAPTIVE)
UNDER_ATTACK = (Outcome.SURVIVED, Outcome.BROKEN, Outcome.DETECTED, Outcome.UNKNOWN)


def attacked(
    met: list[Outcome], wrong: list[bool], eps: float = 0.1, method: str = "pgd", knowledge: Knowledge = Knowledge.GRAY
) -> CellResult:
    """Return a cell whose samples met these outcomes; where ``wrong`` they were wrong from the start."""
    n = len(met)
    attack = AttackSpec(method=method, threat=ThreatModel(eps=eps))
    refused = [outcome is Outcome.DETECTED for outcome in met]
    return CellResult(
        cell=a_cell(n).model_copy(update={"attack": attack, "knowledge": knowledge}),
        ids=range(n),
        labels=[0] * n,
        clean=answers([int(w) for w in wrong]),
        attacked=answers([int(outcome is Outcome.BROKEN) for outcome in met], refused),
        failed=[outcome is Outcome.UNKNOWN for outcome in met],
    )


@st.composite
def systems(draw: st.DrawFn) -> list[CellResult]:
    """Draw the attacks on one system: any outcomes, sizes and levels."""
    n = draw(st.integers(1, 6))
    wrong = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    column = st.lists(st.sampled_from(UNDER_ATTACK), min_size=n, max_size=n)
    spots = draw(st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(LEVELS), column), min_size=1, max_size=6))
    return [attacked(met, wrong, eps, f"attack{i}", level) for i, (eps, level, met) in enumerate(spots)]


def size(result: CellResult) -> float:
    assert result.cell.attack is not None
    return result.cell.attack.threat.eps


def brute(found: list[CellResult], i: int, eps: float) -> Outcome:
    """Say what became of sample ``i``, in the words of the definition."""
    here = [r.outcomes()[i] for r in found if size(r) == eps]
    ever = [r.outcomes()[i] for r in found if size(r) <= eps]
    for settled in (Outcome.WRONG_CLEAN, Outcome.BROKEN, Outcome.DETECTED):
        if settled in ever:
            return settled
    return Outcome.SURVIVED if Outcome.SURVIVED in here else Outcome.UNKNOWN


@FEW
@given(systems(), st.sampled_from(SIZES), st.sampled_from((None, *LEVELS)))
def test_worst_case_is_its_definition(found: list[CellResult], eps: float, level: Knowledge | None) -> None:
    chosen = [r for r in found if level in (None, r.cell.knowledge)]
    worst = Trials(found).worst_case(eps, level)
    if not any(size(r) == eps for r in chosen):
        assert worst is None
        return
    assert worst is not None
    assert worst.outcomes() == tuple(brute(chosen, i, eps) for i in range(len(found[0].ids)))
    assert worst.here == sum(size(r) == eps for r in chosen)


@FEW
@given(systems(), st.sampled_from(SIZES))
def test_only_this_size_where_smaller_ones_are_left_out(found: list[CellResult], eps: float) -> None:
    here = [r for r in found if size(r) == eps]
    worst = Trials(found).worst_case(eps, smaller=False)
    assert (worst is None) == (not here)
    if worst is not None:
        assert worst.outcomes() == tuple(brute(here, i, eps) for i in range(len(found[0].ids)))


@FEW
@given(systems())
def test_headline_never_exceeds_an_attack_nor_a_level_and_never_rises_with_eps(found: list[CellResult]) -> None:
    system = Trials(found)
    unreached = len(found[0].ids)
    for eps in system.sizes():
        whole = system.worst_case(eps)
        assert whole is not None
        cases = [case for level in LEVELS if (case := system.worst_case(eps, level)) is not None]
        for weaker in (*cases, *(r for r in found if size(r) == eps)):
            for other in rates.robust_accuracy, rates.robust_or_refused:
                assert other(whole).hits <= other(weaker).hits + _untried(weaker)
        holding = sum(outcome in (Outcome.SURVIVED, Outcome.UNKNOWN) for outcome in whole.outcomes())
        assert holding <= unreached
        unreached = holding


def _untried(judged: rates.Judged) -> int:
    """Samples that this attack failed on, and that another one may show to hold."""
    return judged.outcomes().count(Outcome.UNKNOWN)


@FEW
@given(systems(), st.sampled_from(SIZES))
def test_the_first_to_break_a_sample_did_break_it(found: list[CellResult], eps: float) -> None:
    worst = Trials(found).worst_case(eps)
    if worst is None:
        return
    for i, (outcome, first) in enumerate(zip(worst.outcomes(), worst.first, strict=True)):
        assert (first is not None) == (outcome in (Outcome.BROKEN, Outcome.DETECTED))
        if first is not None:
            assert worst.cells[first].outcomes()[i] is outcome
            assert all(cell.outcomes()[i] is not outcome for cell in worst.cells[:first])
    assert sum(worst.broken_by().values()) == worst.outcomes().count(Outcome.BROKEN)


def test_a_case_counted_by_hand() -> None:
    s, b, d, u = UNDER_ATTACK
    right = [False] * 6
    small = attacked([s, b, s, s, u, s], right, 0.1, "small")
    fgsm = attacked([s, s, d, u, u, s], right, 0.2, "fgsm")
    pgd = attacked([s, s, b, s, u, d], right, 0.2, "pgd", Knowledge.WHITE)
    large = attacked([b] * 6, right, 0.3, "large")
    worst = Trials([large, small, fgsm, pgd]).worst_case(0.2)
    assert worst is not None
    assert worst.outcomes() == (s, b, b, s, u, d)
    assert [worst.cells[i].cell.attack.method if i is not None else None for i in worst.first] == [
        None,
        "small",
        "pgd",
        None,
        None,
        "pgd",
    ]
    assert (worst.here, worst.incomplete) == (2, 2)
    assert rates.robust_accuracy(worst).hits == 2 and rates.robust_or_refused(worst).hits == 3
    assert rates.success_rate(worst) == rates.Rate(2, 5) and rates.right_from_the_start(worst) == rates.Rate(6, 6)


def test_outliving_a_smaller_size_is_no_robustness_here() -> None:
    right = [False]
    found = [attacked([Outcome.SURVIVED], right, 0.1), attacked([Outcome.UNKNOWN], right, 0.2)]
    worst = Trials(found).worst_case(0.2)
    assert worst is not None and worst.outcomes() == (Outcome.UNKNOWN,)


OTHERS: dict[str, Callable[[CellResult], dict[str, object]]] = {
    "defence": lambda r: {"defence": Subject(name="other")},
    "weights": lambda r: {"defence": r.cell.defence.model_copy(update={"weights": "e" * 64})},
    "classifier": lambda r: {"classifier": Subject(name="other")},
    "images": lambda r: {"samples": r.cell.samples.model_copy(update={"data": "y" * 64})},
    "norm": lambda r: {"attack": AttackSpec(method="pgd", threat=ThreatModel(eps=0.1, norm=Norm.L2))},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_systems_images_and_norms_stay_apart(what: str) -> None:
    one = attacked([Outcome.SURVIVED], [False])
    other = one.model_copy(update={"cell": one.cell.model_copy(update=OTHERS[what](one))})
    with pytest.raises(ValueError, match="one system"):
        Trials([one, other])
    assert len(trials([one, other, one])) == 2


def test_clean_cells_are_no_attacks() -> None:
    one = attacked([Outcome.SURVIVED], [False])
    clean = one.model_copy(update={"cell": a_cell(1, attack=False), "attacked": None})
    assert trials([clean]) == []
    assert [len(system.results) for system in trials([clean, one])] == [1]
    with pytest.raises(ValueError):
        Trials([])
