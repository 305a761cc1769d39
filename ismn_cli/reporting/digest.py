"""Cells as they pass: a report takes from each what it needs and lets it go, so that any number of them fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Cell
from ismn_cli.core.worst_case import Met, met
from ismn_cli.reporting.balance import balance_figures
from ismn_cli.reporting.table import Value, cell_row


@dataclass(frozen=True)
class Digest:
    """What a comparison keeps of a cell: its row of the table, and what became of each sample, a byte each."""

    cell: Cell
    row: dict[str, Value]
    met: Met | None
    """None for a clean cell."""


def digests(results: Iterable[CellResult], stand_in_for: str | None = None) -> list[Digest]:
    """Return one per distinct cell, in the order given; for ``stand_in_for`` see `quoted`.

    ``results`` is gone through once, and none of it is kept. Whoever wants more of the cells wraps the iterable.
    """
    found: dict[str, Digest] = {}
    for result in results:
        row = cell_row(result, stand_in_for) | balance_figures(result)
        found[result.cell.key()] = Digest(result.cell, row, met(result))
    return list(found.values())
