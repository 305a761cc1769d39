"""Stored cells for the tests of the audit: a system's outcomes, written down sample by sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ismn_cli.core.records import Answers, CellResult
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Norm, Samples, Subject, ThreatModel

N = 100
GRAY, BLACK, WHITE, ADAPTIVE = Knowledge.GRAY, Knowledge.BLACK, Knowledge.WHITE, Knowledge.ADAPTIVE
STEPS = {"fgsm": {}, "square": {"n_queries": 100}, "uniform-noise": {"draws": 10}}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cell(system: str, method: str | None = None, eps: float = 8 / 255, level: Knowledge = GRAY, **more: Any) -> Cell:
    threat = ThreatModel(norm=more.pop("norm", Norm.LINF), eps=eps)
    params = more.pop("params", STEPS.get(method or "", {"steps": 10}))
    spec = AttackSpec(method=method, threat=threat, params=params) if method else None
    fields: dict[str, Any] = {
        "classifier": Subject(name="classifier", weights=digest("base")),
        "defence": Subject(name=system, weights=digest("base" if system == "none" else system)),
        "samples": Samples(
            dataset="cifar10", split="test", count=N, total=10_000, ids=digest("ids"), data=digest("data")
        ),
        "knowledge": level if method else Knowledge.CLEAN,
        "attack": spec,
        "seed": 0,
        "batch_size": 50,
    }
    return Cell(**(fields | more))


def answers(right: Sequence[bool], rejected: Sequence[bool] | None = None, score: Sequence[float] = ()) -> Answers:
    refused = tuple(rejected or (False,) * len(right))
    return Answers(
        predicted=tuple(i % 10 if ok else (i + 1) % 10 for i, ok in enumerate(right)),
        flagged=refused,
        rejected=refused,
        score=tuple(score or (0.0,) * len(right)),
        loops=(0,) * len(right),
    )


def clean(system: str, right: int = 90, **more: Any) -> CellResult:
    """A cell without attack; the first ``right`` images are answered right."""
    return CellResult(
        cell=cell(system),
        ids=tuple(range(N)),
        labels=tuple(i % 10 for i in range(N)),
        clean=answers([i < right for i in range(N)], **more),
    )


def attacked(
    system: str,
    method: str,
    held: Sequence[int] | range,
    eps: float = 8 / 255,
    level: Knowledge = GRAY,
    *,
    right: int = 90,
    failed: Sequence[int] = (),
    refused: Sequence[int] = (),
    notes: tuple[str, ...] = (),
    scores: tuple[Sequence[float], Sequence[float]] = ((), ()),
    **more: Any,
) -> CellResult:
    """A cell under attack that the samples at ``held`` outlive."""
    return CellResult(
        cell=cell(system, method, eps, level, **more),
        ids=tuple(range(N)),
        labels=tuple(i % 10 for i in range(N)),
        clean=answers([i < right for i in range(N)], score=scores[0]),
        attacked=answers([i in held for i in range(N)], [i in refused for i in range(N)], scores[1]),
        failed=tuple(i in failed for i in range(N)),
        linf=(eps,) * N,
        l2=(1.0,) * N,
        notes=notes,
    )
