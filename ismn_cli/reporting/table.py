"""Stored cells as one tidy table. Every format is drawn from it, so their figures agree to the last digit.

The columns, their order and their meaning are `ismn_cli.reporting.columns.COLUMNS`. Percentages are rounded
to one decimal here, once; the counts beside them (``*_hits`` of ``*_total``) are exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.detection import auroc
from ismn_cli.core.rates import Judged, Rate, outcome_counts
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Cell, Subject, format_eps
from ismn_cli.reporting.columns import COLUMNS, RATES, Column
from ismn_cli.reporting.layout import Sheet
from ismn_cli.reporting.published import quoted

if TYPE_CHECKING:
    from pandas import DataFrame

Value = str | int | float | bool | None
Row = Mapping[str, Any]
"""One row of the table by column name: a Value each, None where a figure is missing or undefined."""


@dataclass(frozen=True)
class Report:
    """The table object: ``rows`` in its ``columns``, what to say about it, its layout for people."""

    title: str
    caption: str
    rows: list[Row]
    notes: tuple[str, ...]
    layout: Callable[[list[Row]], list[Sheet]]
    columns: tuple[Column, ...] = COLUMNS

    def sheets(self) -> list[Sheet]:
        """Return the table as people read it."""
        return self.layout(self.rows)

    def frame(self) -> DataFrame:
        """Return the table as a pandas one, each column of its kind."""
        import pandas as pd

        return pd.DataFrame({c.name: pd.array([row[c.name] for row in self.rows], dtype=c.kind) for c in self.columns})

    def without_clock(self) -> Report:
        """Return the report without the columns that time something: the same for the same results, always."""
        kept = tuple(column for column in self.columns if not column.clock)
        return replace(self, rows=tidy(self.rows, kept), columns=kept)


def comparison(results: Iterable[CellResult], ceilings: Iterable[Ceiling] = ()) -> list[Row]:
    """Return one row per distinct cell, in the order given."""
    return tidy(with_ceilings(cell_rows(results), ceilings), COLUMNS)


def cell_rows(results: Iterable[CellResult]) -> list[dict[str, Value]]:
    """Return one row per distinct cell, in the order given."""
    return list({result.cell.key(): cell_row(result) for result in results}.values())


def with_ceilings(rows: Sequence[dict[str, Value]], ceilings: Iterable[Ceiling]) -> list[dict[str, Value]]:
    """Return ``rows``, the attacked ones with the ceiling of their images at their norm and eps where it is known."""
    figures: dict[tuple[Value, ...], dict[str, Value]] = {
        (top.samples.ids, top.samples.data, top.norm.value, top.eps): {
            "ceiling": percent(top.value),
            "ceiling_images": top.possible,
        }
        for top in ceilings
    }
    place = ("samples", "data", "norm", "eps")
    return [row | figures.get(tuple(row.get(name) for name in place), {}) for row in rows]


def with_doubts(
    rows: Sequence[dict[str, Value]], unreliable: Mapping[str, Sequence[str]]
) -> list[dict[str, Value]]:
    """Return ``rows``, those of ``unreliable`` cells (by key) with the codes of the checks that failed."""
    codes = [one_line(", ".join(unreliable.get(str(row.get("cell")), ()))) for row in rows]
    return [row | {"unreliable": failed or None} for row, failed in zip(rows, codes, strict=True)]


def tidy(rows: Iterable[Row], columns: Sequence[Column]) -> list[Row]:
    """Return ``rows`` in ``columns``, each value of its column's kind; what a row does not have is None."""
    return [{column.name: _value(row.get(column.name), column.kind) for column in columns} for row in rows]


_KINDS: dict[str, Callable[[Any], Value]] = {"string": str, "Int64": int, "Float64": float, "boolean": bool}


def _value(value: Any, kind: str) -> Value:
    return None if value is None or value != value else _KINDS[kind](value)


def one_line(text: str) -> str:
    """Return ``text`` fit for one line of a table: control characters and line breaks become spaces."""
    kept = "".join(c if c.isprintable() or c == "\N{ZERO WIDTH JOINER}" else " " for c in text)
    return " ".join(kept.split())


def cell_row(result: CellResult, stand_in_for: str | None = None) -> dict[str, Value]:
    """Return the row of a cell; for ``stand_in_for`` see `quoted`."""
    return {
        **identity(result.cell),
        **attack_columns(result.cell),
        "draws": _draws(result),
        **_rates(result),
        **_paper(result.cell, stand_in_for),
        **_outcomes(result),
        **_costs(result),
        "auroc": _digits(auroc(result), 4),
        "notes": one_line("; ".join(result.notes)),
        "cell": result.cell.key(),
    }


def identity(cell: Cell) -> dict[str, Value]:
    """Return the columns that name the images, the classifier and the defence."""
    return {
        "dataset": one_line(cell.samples.dataset),
        "split": one_line(cell.samples.split),
        "samples": one_line(cell.samples.ids),
        "data": one_line(cell.samples.data),
        "n": cell.samples.count,
        "split_size": cell.samples.total,
        "classifier": one_line(cell.classifier.name),
        "classifier_weights": one_line(cell.classifier.weights),
        "defence": one_line(cell.defence.name),
        "defence_weights": one_line(cell.defence.weights),
    }


def attack_columns(cell: Cell) -> dict[str, Value]:
    """Return the columns that name what was done to the images."""
    run: dict[str, Value] = {
        "knowledge": cell.knowledge.value,
        "seed": cell.seed,
        "batch_size": cell.batch_size,
    }
    if cell.attack is None:
        return run
    threat = cell.attack.threat
    return run | {
        "attack": one_line(cell.attack.method),
        "norm": threat.norm.value,
        "eps": threat.eps,
        "level": format_eps(threat.eps),
        "targeted": threat.targeted,
        "params": json.dumps(cell.attack.params, sort_keys=True),
        "sources": ", ".join(map(_named, cell.sources)) or None,
        "eot": cell.attack.eot,
        "after": ", ".join(one_line(attack.label()) for attack in cell.after) or None,
    }


def _named(system: Subject) -> str:
    return one_line(f"{system.name} {system.weights[:8]}")


def _draws(result: CellResult) -> int:
    tallied = result.draws_attacked or result.draws_clean
    return tallied.k if tallied else result.cell.draws


def _rates(result: CellResult) -> dict[str, Value]:
    return {k: v for column in RATES for k, v in rate_figures(column.name, column.measure(result)).items()}


def rate_figures(name: str, rate: Rate) -> dict[str, Value]:
    """Return the columns of the rate called ``name``."""
    low, high = _interval(rate)
    return {
        name: percent(rate.value),
        f"{name}_low": percent(low),
        f"{name}_high": percent(high),
        f"{name}_hits": rate.hits,
        f"{name}_total": rate.total,
    }


@cache
def _interval(rate: Rate) -> tuple[float, float]:
    """The same few rates fill a large table (clean ones, zeros), and an interval takes milliseconds."""
    return rate.interval()


def percent(share: float) -> float | None:
    """Return a share as a percentage to one decimal; None where it is undefined."""
    return _digits(100 * share, 1)


def _digits(figure: float, digits: int) -> float | None:
    return round(figure, digits) if math.isfinite(figure) else None


def _paper(cell: Cell, stand_in_for: str | None) -> dict[str, Value]:
    found = quoted(cell, stand_in_for)
    return {"paper": percent(found.accuracy), "paper_source": found.source} if found else {}


def _outcomes(result: CellResult) -> dict[str, Value]:
    if result.attacked is None:
        return {}
    return outcome_figures(result) | {"failed": sum(result.failed)}


def outcome_figures(result: Judged) -> dict[str, Value]:
    """Return the columns that count the outcomes."""
    counts: Mapping[Outcome, int] = outcome_counts(result)
    return {outcome.value.replace("-", "_"): count for outcome, count in counts.items()}


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
        "queries_per_image": _mean(result.queries, n),
        "attack_ms": _mean(1000 * result.craft_seconds, n),
        **_distances("linf", result.linf, result.failed, 5),
        **_distances("l2", result.l2, result.failed, 4),
    }


def _distances(name: str, distances: Sequence[float], failed: Sequence[bool], digits: int) -> dict[str, Value]:
    """Mean and maximum over the images attacked; where the attack failed the image was left as it was."""
    attacked = distances
    if any(failed):
        attacked = [distance for distance, lost in zip(distances, failed, strict=True) if not lost]
    if not attacked:
        return {}
    mean = _mean(sum(attacked), len(attacked), digits)
    return {f"{name}_mean": mean, f"{name}_max": _digits(max(attacked), digits)}


def _mean(total: float, count: int, digits: int = 2) -> float | None:
    return _digits(total / count, digits) if count else None
