"""Tables for people, before any format: columns of short texts, fitted to a width. No figure is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

Lines = tuple[str, ...]
"""A text in parts: a terminal stacks them in a box, markdown sets them in a row."""

MISSING: Lines = ("–",)
UNDEFINED: Lines = ("n/a",)


@dataclass(frozen=True)
class Column:
    """A heading over one text per row. A ``tied`` column stays beside the one before it (a quoted figure)."""

    head: Lines
    cells: tuple[Lines, ...]
    tied: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table as wide as it likes.

    A group is columns that belong together, such as one attack at all its levels; ``lead`` is repeated beside
    every group where there is room.
    """

    title: str
    corner: str
    labels: tuple[Lines, ...]
    lead: tuple[Column, ...]
    groups: tuple[tuple[Column, ...], ...]


@dataclass(frozen=True)
class Block:
    """A part of a sheet that is set as one table."""

    corner: str
    labels: tuple[Lines, ...]
    columns: tuple[Column, ...]


Measure = Callable[[Block], int]


def fit(sheet: Sheet, width: int, measure: Measure) -> list[Block]:
    """Return ``sheet`` as blocks no wider than ``width``: whole, a block a group, or even parts of groups.

    A block of one column (with those tied to it) is never divided further, whatever its width.
    """
    whole = Block(sheet.corner, sheet.labels, tuple(chain(sheet.lead, *sheet.groups)))
    if measure(whole) <= width:
        return [whole]
    beside = [replace(whole, columns=sheet.lead + group) for group in sheet.groups]
    if all(measure(block) <= width for block in beside):
        return beside
    alone = [replace(whole, columns=sheet.lead)] if sheet.lead else []
    groups = [replace(whole, columns=group) for group in sheet.groups]
    return alone + [part for block in groups for part in _divide(block, width, measure)]


def _divide(block: Block, width: int, measure: Measure) -> list[Block]:
    units = _units(block.columns)
    for count in range(1, len(units) + 1):
        parts = [replace(block, columns=tuple(chain(*part))) for part in _evenly(units, count)]
        if count == len(units) or all(measure(part) <= width for part in parts):
            return parts
    return [block]


def _units(columns: Sequence[Column]) -> list[list[Column]]:
    units: list[list[Column]] = []
    for column in columns:
        if column.tied and units:
            units[-1].append(column)
        else:
            units.append([column])
    return units


def _evenly(units: Sequence[list[Column]], count: int) -> Iterator[Sequence[list[Column]]]:
    size, extra = divmod(len(units), count)
    start = 0
    for part in range(count):
        end = start + size + (part < extra)
        yield units[start:end]
        start = end
