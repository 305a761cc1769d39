"""The report on a terminal: Rich tables that fit themselves to its width. Names are text, never markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ismn_cli.reporting.layout import Block, Lines, fit
from ismn_cli.reporting.table import Report, one_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

LABEL_WIDTH = 36
COLUMN_WIDTH = 24
GAP = 2
"""Between columns: one of padding, one that the box draws."""


class Terminal:
    """A Rich renderable of ``report``."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield titles, tables no wider than the console, and notes."""
        yield Text(one_line(self.report.title), style="bold")
        yield Text(one_line(self.report.caption), style="dim")
        yield Text()
        for sheet in self.report.sheets():
            if sheet.title:
                yield Text(one_line(sheet.title), style="bold cyan")
            for block in fit(sheet, options.max_width, width):
                yield _table(block)
                yield Text()
        for note in self.report.notes:
            yield _note(note)


def width(block: Block) -> int:
    """Return how many characters wide ``block`` is set."""
    labels = max(map(_widest, (*block.labels, (block.corner,))))
    columns = [max(map(_widest, (column.head, *column.cells))) for column in block.columns]
    return min(labels, LABEL_WIDTH) + sum(min(column, COLUMN_WIDTH) + GAP for column in columns)


def _widest(lines: Lines) -> int:
    return max(map(cell_len, lines))


def _table(block: Block) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        show_edge=False,
    )
    table.add_column(block.corner, overflow="fold", max_width=LABEL_WIDTH)
    for column in block.columns:
        table.add_column(_text(column.head), justify="right", overflow="fold", max_width=COLUMN_WIDTH)
    for i, label in enumerate(block.labels):
        table.add_row(_text(label), *(_text(column.cells[i]) for column in block.columns))
    return table


def _text(lines: Lines) -> Text:
    first, *rest = map(one_line, lines)
    return Text.assemble(first, *(("\n" + line, "dim") for line in rest))


def _note(note: str) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(Text("•"), Text(one_line(note)))
    return grid
