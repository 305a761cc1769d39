"""Stored cells as one tidy table. Every format is drawn from it, so their figures agree to the last digit.

The columns, their order and their meaning are `ismn_cli.reporting.columns.COLUMNS`. Percentages are rounded
to one decimal here, once; the counts beside them (``*_hits`` of ``*_total``) are exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ismn_cli.core.rates import Rate, outcome_counts
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Cell, format_eps
from ismn_cli.reporting.columns import COLUMNS, RATES
from ismn_cli.reporting.layout import Sheet
from ismn_cli.reporting.published import quoted

if TYPE_CHECKING:
    from pandas import DataFrame

Value = str | int | float | bool | None
Row = Mapping[str, Any]
"""One row of the table by column name: a Value each, None where a figure is missing or undefined."""


@dataclass(frozen=True)
class Report:
    """The table object: ``frame`` in the columns of COLUMNS, what to say about it, its layout for people."""

    title: str
    caption: str
    frame: DataFrame
    notes: tuple[str, ...]
    layout: Callable[[list[Row]], list[Sheet]]

    def sheets(self) -> list[Sheet]:
        """Return the table as people read it."""
        return self.layout(rows_of(self.frame))


def comparison(results: Sequence[CellResult]) -> DataFrame:
    """Return one row per distinct cell, in the order given; without results, the columns alone."""
    import pandas as pd

    distinct = {result.cell.key(): result for result in results}
    rows = [_row(key, result) for key, result in distinct.items()]
    kinds: dict[str, Any] = {column.name: column.kind for column in COLUMNS}
    values: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in kinds}
    return pd.DataFrame({name: pd.array(values[name], dtype=kind) for name, kind in kinds.items()})


def rows_of(frame: DataFrame) -> list[Row]:
    """Return the rows of ``frame`` as plain Python values."""
    import pandas as pd

    names = [str(name) for name in frame.columns]
    columns = [[None if value is pd.NA else value for value in frame[name].tolist()] for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def one_line(text: str) -> str:
    """Return ``text`` fit for one line of a table: control characters and line breaks become spaces."""
    kept = "".join(c if c.isprintable() or c == "\N{ZERO WIDTH JOINER}" else " " for c in text)
    return " ".join(kept.split())


def _row(key: str, result: CellResult) -> dict[str, Value]:
    return {
        **_identity(result.cell),
        **_rates(result),
        **_paper(result.cell),
        **_outcomes(result),
        **_costs(result),
        "notes": one_line("; ".join(result.notes)),
        "cell": key,
    }


def _identity(cell: Cell) -> dict[str, Value]:
    return {
        "dataset": one_line(cell.samples.dataset),
        "split": one_line(cell.samples.split),
        "samples": cell.samples.ids,
        "data": cell.samples.data,
        "n": cell.samples.count,
        "split_size": cell.samples.total,
        "classifier": one_line(cell.classifier.name),
        "classifier_weights": cell.classifier.weights,
        "defence": one_line(cell.defence.name),
        "defence_weights": cell.defence.weights,
        "knowledge": cell.knowledge.value,
        **_attack(cell),
        "seed": cell.seed,
        "batch_size": cell.batch_size,
    }


def _attack(cell: Cell) -> dict[str, Value]:
    if cell.attack is None:
        return {}
    threat = cell.attack.threat
    return {
        "attack": one_line(cell.attack.method),
        "norm": threat.norm.value,
        "eps": threat.eps,
        "level": format_eps(threat.eps),
        "targeted": threat.targeted,
        "params": json.dumps(cell.attack.params, sort_keys=True),
    }


def _rates(result: CellResult) -> dict[str, Value]:
    return {k: v for column in RATES for k, v in _rate(column.name, column.measure(result)).items()}


def _rate(name: str, rate: Rate) -> dict[str, Value]:
    low, high = _interval(rate)
    return {
        name: _percent(rate.value),
        f"{name}_low": _percent(low),
        f"{name}_high": _percent(high),
        f"{name}_hits": rate.hits,
        f"{name}_total": rate.total,
    }


@cache
def _interval(rate: Rate) -> tuple[float, float]:
    """The same few rates fill a large table (clean ones, zeros), and an interval takes milliseconds."""
    return rate.interval()


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 1)


def _paper(cell: Cell) -> dict[str, Value]:
    found = quoted(cell)
    if found is None:
        return {}
    return {"paper": _percent(found.accuracy), "paper_source": f"{found.cite}, read as {found.reading}"}


def _outcomes(result: CellResult) -> dict[str, Value]:
    if result.attacked is None:
        return {}
    counts: Mapping[Outcome, int] = outcome_counts(result)
    named: dict[str, Value] = {outcome.value.replace("-", "_"): count for outcome, count in counts.items()}
    return named | {"failed": sum(result.failed)}


def _costs(result: CellResult) -> dict[str, Value]:
    n = len(result.ids)
    decision: dict[str, Value] = {
        "latency_ms": _mean(1000 * result.judge_seconds, n),
        "loops_clean": _mean(sum(result.clean.loops), n),
    }
    if result.attacked is None:
        return decision
    return {
        **decision,
        "loops_attacked": _mean(sum(result.attacked.loops), n),
        "forwards_per_image": _mean(result.forwards, n),
        "backwards_per_image": _mean(result.backwards, n),
        "attack_ms": _mean(1000 * result.craft_seconds, n),
        **_distances("linf", result.linf, result.failed, 5),
        **_distances("l2", result.l2, result.failed, 4),
    }


def _distances(name: str, distances: Sequence[float], failed: Sequence[bool], digits: int) -> dict[str, Value]:
    """Mean and maximum over the images attacked; where the attack failed the image was left as it was."""
    attacked = [distance for distance, lost in zip(distances, failed, strict=True) if not lost]
    if not attacked:
        return {}
    mean = _mean(sum(attacked), len(attacked), digits)
    return {f"{name}_mean": mean, f"{name}_max": round(max(attacked), digits)}


def _mean(total: float, count: int, digits: int = 2) -> float | None:
    return round(total / count, digits) if count else None
