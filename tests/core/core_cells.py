"""Cells and results to test with: fixed ones and hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st

from ismn_cli.core.records import Answers, CellResult, Environment
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Samples, Subject, ThreatModel

ENVIRONMENT = Environment(
    ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1
)


def a_cell(n: int, attack: bool = True, seed: int = 0) -> Cell:
    return Cell(
        classifier=Subject(name="none", weights="c" * 64),
        defence=Subject(name="magnet", weights="d" * 64),
        samples=Samples(dataset="cifar10", split="test", count=n, total=10_000, ids="i" * 64, data="x" * 64),
        knowledge=Knowledge.GRAY if attack else Knowledge.CLEAN,
        attack=AttackSpec(method="pgd", threat=ThreatModel(eps="8/255"), params={"steps": 10})
        if attack
        else None,
        seed=seed,
        batch_size=32,
    )


def answers(
    predicted: list[int], rejected: list[bool] | None = None, flagged: list[bool] | None = None
) -> Answers:
    n = len(predicted)
    refused = rejected or [False] * n
    return Answers(
        predicted=predicted, flagged=flagged or refused, rejected=refused, score=[0.0] * n, loops=[0] * n
    )


def a_result(mark: int = 0, n: int = 50, seed: int = 0) -> CellResult:
    """Return a result whose content is recognisable by ``mark`` and whose key depends on n and seed only."""
    return CellResult(
        cell=a_cell(n, seed=seed),
        ids=range(n),
        labels=[i % 10 for i in range(n)],
        clean=answers([mark] * n),
        attacked=answers([mark] * n),
        failed=[False] * n,
        linf=[0.03] * n,
        l2=[1.0] * n,
    )


@st.composite
def some_answers(draw: st.DrawFn, n: int) -> Answers:
    def column(of: st.SearchStrategy) -> list:
        return draw(st.lists(of, min_size=n, max_size=n))

    return Answers(
        predicted=column(st.integers(0, 2)),
        flagged=column(st.booleans()),
        rejected=column(st.booleans()),
        score=column(st.floats()),
        loops=column(st.integers(0, 5)),
    )


@st.composite
def results(draw: st.DrawFn, attacked: bool = True, min_size: int = 0) -> CellResult:
    n = draw(st.integers(min_size, 12))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    clean = draw(some_answers(n))
    if not attacked:
        return CellResult(cell=a_cell(n, attack=False), ids=range(n), labels=labels, clean=clean)
    return CellResult(
        cell=a_cell(n),
        ids=range(n),
        labels=labels,
        clean=clean,
        attacked=draw(some_answers(n)),
        failed=draw(st.lists(st.booleans(), min_size=n, max_size=n)),
        linf=draw(st.lists(st.floats(), min_size=n, max_size=n)),
        l2=[0.5] * n,
    )
