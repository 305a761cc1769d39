"""Runs to gate: cells made of outcomes, and evidence made of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from ismn_cli.core.findings import Audit
from ismn_cli.core.gate_evidence import Evidence, System
from ismn_cli.core.records import Answers, CellResult, Outcome
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Samples, Subject, ThreatModel
from ismn_cli.core.worst_case import trials

S, B, D, U = Outcome.SURVIVED, Outcome.BROKEN, Outcome.DETECTED, Outcome.UNKNOWN
SIZES = (0.03, 0.1)
METHODS = ("fgsm", "pgd")
Outcomes = Sequence[Outcome]


def a_cell(n: int, method: str | None, eps: float = 0.1, **changes: Any) -> Cell:
    """Return a white-box cell, or a clean one without ``method``."""
    attack = AttackSpec(method=method, threat=ThreatModel(eps=eps), params={"steps": 10}) if method else None
    fields: dict[str, Any] = {
        "classifier": Subject(name="classifier", weights="c" * 64),
        "defence": Subject(name="ismn", weights="d" * 64),
        "samples": Samples(dataset="cifar10", split="test", count=n, total=10_000, ids=f"{n:064d}", data="d" * 64),
        "knowledge": Knowledge.WHITE if method else Knowledge.CLEAN,
        "attack": attack,
        "seed": 0,
        "batch_size": 20,
    }
    return Cell(**(fields | changes))


def clean_result(right: Sequence[bool], flagged: Sequence[bool] | None = None, **changes: Any) -> CellResult:
    """Return a clean cell on labels of zero."""
    n = len(right)
    return CellResult(
        cell=a_cell(n, None, **changes), ids=range(n), labels=(0,) * n, clean=_answers(right, [False] * n, flagged)
    )


def attacked_result(
    right: Sequence[bool], outcomes: Outcomes, method: str = "pgd", eps: float = 0.1, **changes: Any
) -> CellResult:
    """Return a cell on which the samples that were ``right`` met these outcomes."""
    n = len(right)
    return CellResult(
        cell=a_cell(n, method, eps, **changes),
        ids=range(n),
        labels=(0,) * n,
        clean=_answers(right, [False] * n),
        attacked=_answers([outcome is not B for outcome in outcomes], [outcome is D for outcome in outcomes]),
        failed=[outcome is U for outcome in outcomes],
        linf=(eps,) * n,
        l2=(1.0,) * n,
        craft_seconds=0.5,
    )


def a_system(right: Sequence[bool], table: Mapping[tuple[str, float], Outcomes], **changes: Any) -> System:
    """Return a system from the outcomes of each (method, eps)."""
    attacked = [attacked_result(right, column, *key, **changes) for key, column in table.items()]
    found = trials(attacked)
    return System(clean_result(right, **changes), found[0] if found else None)


def evidence(system: System, run: str = "made-00000000", audit: Audit | None = None) -> Evidence:
    """Return a whole run of one system called ismn."""
    return Evidence(run, "2026-01-02T03:04:05.678901+00:00", {"ismn": system}, (), audit, "no audit", False)


def _answers(right: Sequence[bool], refused: Sequence[bool], flagged: Sequence[bool] | None = None) -> Answers:
    n = len(right)
    return Answers(
        predicted=tuple(0 if held else 1 for held in right),
        flagged=tuple(flagged or refused),
        rejected=tuple(refused),
        score=(0.0,) * n,
        loops=(0,) * n,
    )


@st.composite
def tables(draw: st.DrawFn, outcomes: Outcomes = (S, B, D, U), n: int | None = None) -> tuple[list[bool], dict]:
    """Draw which samples are right without attack, and the outcomes of two attacks at two sizes."""
    n = n or draw(st.integers(1, 12))
    right = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    column = st.lists(st.sampled_from(outcomes), min_size=n, max_size=n)
    return right, {(method, eps): draw(column) for method in METHODS for eps in SIZES}
