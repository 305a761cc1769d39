"""Figures of a row as short texts. Nothing is computed or rounded here: a text shows what the table holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ismn_cli.reporting.layout import MISSING, UNDEFINED, Column, Lines
from ismn_cli.reporting.table import Row


def rate(row: Row, name: str) -> Lines:
    """Return a rate in percent with its interval: "71.2", "[68.1, 74.0]"."""
    if row[name] is None:
        return UNDEFINED
    return f"{row[name]:.1f}", f"[{row[f'{name}_low']:.1f}, {row[f'{name}_high']:.1f}]"


def number(row: Row, *names: str) -> Lines:
    """Return plain figures set apart by slashes, such as a mean and a maximum."""
    if all(row[name] is None for name in names):
        return UNDEFINED
    return (" / ".join("n/a" if row[name] is None else f"{row[name]:,}" for name in names),)


@dataclass(frozen=True)
class Measure:
    """One line of a side-by-side table: what is measured, a row's figure for it, and what rows it is worth it for."""

    label: str
    show: Callable[[Row], Lines]
    worth: Callable[[Row], object] = bool
    """By default any row."""


def of_rate(label: str, name: str, worth: Callable[[Row], object] = bool) -> Measure:
    """Return the measure that shows the rate ``name``."""
    return Measure(label, lambda row: rate(row, name), worth)


def of_numbers(label: str, *names: str, worth: Callable[[Row], object] = bool) -> Measure:
    """Return the measure that shows plain figures."""
    return Measure(label, lambda row: number(row, *names), worth)


def has(name: str) -> Callable[[Row], object]:
    """Return whether a row has a figure ``name`` other than 0."""
    return lambda row: row[name]


def of_ceiling(label: str) -> Measure:
    """Return the measure that shows the ceiling, where it is known: no interval, for it is proven."""
    return Measure(label, lambda row: MISSING if row["ceiling"] is None else (f"{row['ceiling']:.1f}",), has("ceiling"))


def column(head: Lines, row: Row, measures: Sequence[Measure]) -> Column:
    """Return one row of the table as a column, a cell per measure."""
    return Column(head, tuple(measure.show(row) for measure in measures))


def refuses(row: Row) -> bool:
    """Whether any attacked image was refused: only then do the accountings differ."""
    hits = "accuracy_rejected_success_hits", "accuracy_hits"
    return bool((row[hits[0]] or 0) > (row[hits[1]] or 0) or row["detected"])
