"""Picks: every outcome of every system on the fewest samples that a greedy choice needs, within the bound."""

from __future__ import annotations

from core_cells import answers
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.picks import LEVELS, TOLD, contests, main_contests, picks, rows
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Samples, Subject, ThreatModel

SAMPLES = 6
OUTCOMES = st.lists(st.sampled_from(list(Outcome)), min_size=SAMPLES, max_size=SAMPLES)


def a_cell(
    system: str, outcomes: list[Outcome], level: Knowledge = Knowledge.GRAY, method: str = "pgd", eot: int = 1
) -> CellResult:
    """Return a cell on which each sample, of class 0, met its outcome."""
    n = len(outcomes)
    cell = Cell(
        classifier=Subject(name="classifier", weights="c"),
        defence=Subject(name=system, weights=system),
        samples=Samples(dataset="cifar10", split="test", count=n, total=n, ids="i", data="d"),
        knowledge=level,
        attack=AttackSpec(method=method, threat=ThreatModel(eps=0.1), eot=eot),
        seed=0,
        batch_size=2,
    )
    found = CellResult(
        cell=cell,
        ids=range(100, 100 + n),
        labels=[0] * n,
        clean=answers([int(o is Outcome.WRONG_CLEAN) for o in outcomes]),
        attacked=answers([int(o is Outcome.BROKEN) for o in outcomes], [o is Outcome.DETECTED for o in outcomes]),
        failed=[o is Outcome.UNKNOWN for o in outcomes],
        linf=[0.1] * n,
        l2=[1.0] * n,
    )
    assert found.outcomes() == tuple(outcomes)
    return found


@st.composite
def matrices(draw: st.DrawFn) -> list[CellResult]:
    systems = draw(st.integers(1, 4))
    levels = draw(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=3, unique=True))
    return [
        a_cell(f"s{i}", draw(OUTCOMES), level, method)
        for i in range(systems) for level in levels for method in ("fgsm", "pgd")
    ]  # fmt: skip


@given(results=matrices())
def test_rows_show_every_outcome_of_every_system_once_or_more(results: list[CellResult]) -> None:
    for contest in contests(results):
        found = list(rows(contest))
        shown = {(pick.result.cell.key(), pick.outcome) for row in found for pick in row}
        assert shown == {(r.cell.key(), o) for r in contest for o in r.outcomes() if o in TOLD}
        assert len(found) <= len(shown), "each sample adds something"
        for row in found:
            assert len({pick.position for pick in row}) == 1, "one sample, several systems"
            assert all(pick.result.outcomes()[pick.position] is pick.outcome for pick in row)


@given(results=matrices(), most=st.integers(0, 30))
def test_picks_keep_to_the_bound_and_are_the_same_again(results: list[CellResult], most: int) -> None:
    found = picks(results, most)
    everything = picks(results, 10_000)
    assert len(found) == min(most, len(everything))
    places = [(pick.result.cell.key(), pick.position) for pick in found]
    assert len(set(places)) == len(places)
    assert set(places) <= {(pick.result.cell.key(), pick.position) for pick in everything}
    assert [(pick.result.cell.key(), pick.position) for pick in picks(list(results), most)] == places


@given(results=matrices())
def test_with_room_for_a_row_each_level_is_there(results: list[CellResult]) -> None:
    systems = len({result.cell.defence.name for result in results})
    telling = {r.cell.knowledge for r in results if set(r.outcomes()) & set(TOLD)}
    shown = {pick.result.cell.knowledge for pick in picks(results, systems * len(telling))}
    assert shown == telling


@given(results=matrices())
def test_the_main_contest_of_a_level_has_the_most_outcomes(results: list[CellResult]) -> None:
    def variety(contest: object) -> int:
        return len({(r.cell.defence.name, o) for r in contest for o in r.outcomes() if o in TOLD})

    for main in main_contests(results):
        level = main[0].cell.knowledge
        assert variety(main) == max(variety(c) for c in contests(results) if c[0].cell.knowledge is level)


def test_a_system_that_draws_is_in_the_same_contest() -> None:
    outcomes = [Outcome.BROKEN] * SAMPLES
    level = Knowledge.WHITE
    (contest,) = contests([a_cell("none", outcomes, level), a_cell("drawn", outcomes, level, eot=10)])
    assert [result.cell.defence.name for result in contest] == ["none", "drawn"]


def test_one_sample_serves_all_systems_where_one_does() -> None:
    kinds = [Outcome.SURVIVED, Outcome.BROKEN, Outcome.DETECTED]
    first = a_cell("a", [Outcome.WRONG_CLEAN, *kinds])
    second = a_cell("b", [Outcome.UNKNOWN, *reversed(kinds)])
    found = picks([first, second], 24)
    assert [(pick.result.cell.defence.name, pick.position) for pick in found] == [
        ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3),
    ]  # fmt: skip


def test_clean_cells_tell_nothing() -> None:
    clean = a_cell("none", [Outcome.SURVIVED])
    clean = clean.model_copy(update={"cell": clean.cell.model_copy(update={"attack": None}), "attacked": None})
    assert picks([clean], 24) == [] and picks([], 24) == []
