"""Tables of a page: what stands in a box, by what it is sorted, how it is toned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ismn_cli.reporting.layout import MISSING, Lines, Sheet

TONES = 10
"""Steps of the scale from 0 to 100 % in the page's style sheet."""


@dataclass(frozen=True)
class Box:
    """One box: its text in parts, the value that it is sorted by, its tone, and where it leads."""

    text: Lines
    value: float | str | None = None
    tone: str = ""
    link: str = ""
    says: str = ""
    """What a reader who hovers, or does not see the tone, is told besides."""


@dataclass(frozen=True)
class Head:
    """A heading over ``span`` columns; ``text`` in parts."""

    text: Lines
    span: int = 1
    numeric: bool = True


@dataclass(frozen=True)
class Grid:
    """A table. ``heads`` has a row for each tier; the last tier has a heading a column, after the corner."""

    name: str
    caption: str
    corner: str
    heads: tuple[tuple[Head, ...], ...]
    labels: tuple[Lines, ...]
    rows: tuple[tuple[Box, ...], ...]
    sortable: bool = False
    filterable: bool = False
    dense: bool = False
    turned: bool = False
    """Whether the headings stand upright, so that columns can be narrow."""
    anchors: tuple[str, ...] = ()
    """What each row is called in links to it."""

    @property
    def columns(self) -> tuple[Head, ...]:
        """The lowest headings."""
        return self.heads[-1]


def sheet_grid(sheet: Sheet, name: str) -> Grid:
    """Return a sheet as one table, as wide as it likes."""
    columns = [*sheet.lead, *(column for group in sheet.groups for column in group)]
    cells = ([column.cells[i] for column in columns] for i in range(len(sheet.labels)))
    rows = tuple(tuple(Box(text, leading(text)) for text in line) for line in cells)
    heads = tuple(Head(column.head) for column in columns)
    return Grid(name, sheet.title, sheet.corner, (heads,), sheet.labels, rows, sortable=True)


def leading(text: Lines) -> float | None:
    """Return the figure that a text begins with; None where it begins with none."""
    try:
        return float(text[0].replace(",", "").split(" / ")[0])
    except ValueError:
        return None


def toned(share: float | None) -> str:
    """Return the tone of a figure in percent."""
    return "" if share is None else f"t{min(int(share * TONES / 100), TONES - 1)}"


def nothing() -> Box:
    """Return an empty box."""
    return Box(MISSING)


def without_empty(grid: Grid) -> Grid:
    """Return ``grid`` without the columns that hold nothing; its headings have one tier."""
    kept = [i for i in range(len(grid.columns)) if any(row[i].text not in (MISSING, ("",)) for row in grid.rows)]
    heads = (tuple(grid.columns[i] for i in kept),)
    return replace(grid, heads=heads, rows=tuple(tuple(row[i] for i in kept) for row in grid.rows))


def spans(names: Sequence[str]) -> Iterator[Head]:
    """Yield one heading for each stretch of equal names."""
    start = 0
    for i in range(1, len(names) + 1):
        if i == len(names) or names[i] != names[start]:
            yield Head((names[start],), i - start)
            start = i
