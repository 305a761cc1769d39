"""GitHub-flavoured markdown: pipe tables, narrow enough for a comment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tabulate import tabulate

from ismn_cli.reporting.layout import Block, Lines, Sheet, fit
from ismn_cli.reporting.table import Report, one_line

WIDTH = 120
"""Characters of a table's line in the source. GitHub sets it in fewer and breaks long cells at spaces."""
_ACTIVE = re.compile(r"([\\`*_\[\]<>|&~#$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""The last are links that GitHub makes of bare addresses."""


def text(report: Report) -> str:
    """Return the report with its headings, tables and notes."""
    parts = [f"### {escape(report.title)}", escape(report.caption)]
    parts += [part for sheet in report.sheets() for part in _sheet(sheet)]
    if report.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def escape(words: str) -> str:
    """Return ``words`` on one line, every character that markdown or HTML would act on taken literally."""
    return _ACTIVE.sub(r"\\\1", one_line(words))


def _sheet(sheet: Sheet) -> Iterator[str]:
    if sheet.title:
        yield f"#### {escape(sheet.title)}"
    for block in fit(sheet, WIDTH, _width):
        yield _table(block)


def _table(block: Block) -> str:
    headings = [block.corner, *(_escaped(column.head) for column in block.columns)]
    rows = [
        [_escaped(label), *(" ".join(column.cells[i]) for column in block.columns)]
        for i, label in enumerate(block.labels)
    ]
    aligned = ["left"] + ["right"] * len(block.columns)
    if not rows:  # tabulate draws no alignment without rows
        return tabulate([], headings, tablefmt="pipe")
    return tabulate(rows, headings, tablefmt="pipe", disable_numparse=True, colalign=aligned)


def _escaped(words: Lines) -> str:
    return escape(" ".join(words))


def _width(block: Block) -> int:
    labels = [len(_escaped(label)) for label in (block.labels or ((block.corner,),))]
    columns = [
        max(len(_escaped(column.head)), *(len(" ".join(cell)) for cell in column.cells), 0) for column in block.columns
    ]
    return 1 + sum(width + 3 for width in (max(labels), *columns))
