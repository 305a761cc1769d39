"""LaTeX: booktabs tables, ready for a paper, and the notes as a list behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from ismn_cli.reporting.layout import Block, Column, Lines, Sheet, fit
from ismn_cli.reporting.table import Report
from ismn_cli.reporting.tex import escape, guard

HEAD = """% Needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}; UTF-8, which LaTeX reads since 2018."""
WIDTH = 74
"""Digits of \\small type in a line of `article`'s text; wider tables are set in parts, one below the other."""
LINES = 42
"""Lines of \\small type that fit on a page under a caption; longer tables are set as several."""
FLOATS = 12
"""Tables that LaTeX is given before they have to be on their pages; it holds some dozen at most."""
LABEL, CELL = 30, 24
"""Digits after which a text is broken."""
_MINUS = re.compile(r"(?<![\w}-])-(?=\d)")
_RULED = 4
"""Lines that headings and rules take."""
_SMALL = 0.8
"""Width of \\scriptsize type in \\small type."""
_GAP = 1.8
"""Between columns, in digits."""


def text(report: Report) -> str:
    """Return a table environment per sheet, or several where it is long, and the notes."""
    floats = [(sheet, blocks) for sheet in report.sheets() for blocks in _floats(sheet)]
    names = [f"tab:{_slug(report.title)}{f'-{i}' if i > 1 else ''}" for i in range(1, len(floats) + 1)]
    parts = [HEAD]
    before = None
    for i, (name, (sheet, blocks)) in enumerate(zip(names, floats, strict=True)):
        if i and i % FLOATS == 0:
            parts.append("\\clearpage")
        parts.append(_float(_caption(report, sheet, sheet is before), name, blocks))
        before = sheet
    if report.notes:
        parts.append(_notes(report.notes))
    return "\n\n".join(parts) + "\n"


def _caption(report: Report, sheet: Sheet, continued: bool) -> str:
    named = ", ".join(filter(None, (report.title, sheet.title)))
    return escape(f"{named} (continued)." if continued else f"{named}. {report.caption}")


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "ismn"


def _floats(sheet: Sheet) -> Iterator[list[Block]]:
    """Yield the parts of ``sheet`` that are set as one table each."""
    page: list[Block] = []
    room = LINES
    for block in (part for whole in fit(sheet, WIDTH, _width) for part in _short(whole)):
        needed = _RULED + sum(_heights(block))
        if page and needed > room:
            yield page
            page, room = [], LINES
        page.append(block)
        room -= needed
    yield page


def _short(block: Block) -> Iterator[Block]:
    """Yield the rows of ``block`` in parts, none of them longer than a page."""
    start = room = 0
    for row, height in enumerate(_heights(block)):
        if height > room and row:
            yield _rows(block, slice(start, row))
            start = row
        room = (LINES - _RULED if start == row else room) - height
    yield _rows(block, slice(start, None))


def _rows(block: Block, rows: slice) -> Block:
    columns = tuple(replace(column, cells=column.cells[rows]) for column in block.columns)
    return replace(block, labels=block.labels[rows], columns=columns)


def _heights(block: Block) -> list[int]:
    """Return how many lines each row takes."""
    labels = [_wide(label) / LABEL for label in block.labels]
    cells = [[_wide(cell) / CELL for cell in column.cells] for column in block.columns]
    return [math.ceil(max(row)) for row in zip(labels, *cells, strict=True)]


def _float(caption: str, name: str, blocks: Sequence[Block]) -> str:
    tabulars = "\n\n\\medskip\n".join(map(_tabular, blocks))
    head = f"\\begin{{table}}[htbp]\n\\centering\n\\small\n\\setlength{{\\tabcolsep}}{{4pt}}\n\\caption{{{caption}}}"
    return f"{head}\n\\label{{{name}}}\n\\par\\smallskip\n{tabulars}\n\\end{{table}}"


def _tabular(block: Block) -> str:
    labels = [_boxed(label, LABEL, "raggedright") for label in block.labels]
    cells = [[_MINUS.sub("$-$", _boxed(cell, CELL, "raggedleft")) for cell in column.cells] for column in block.columns]
    rows = zip(labels, *cells, strict=True)
    lines = [*(f"{' & '.join(row)} \\\\" for row in rows), "\\bottomrule", "\\end{tabular}"]
    start = f"\\begin{{tabular}}{{@{{}}l{'r' * len(block.columns)}@{{}}}}"
    return "\n".join([start, "\\toprule", *_heads(block), "\\midrule", *lines])


def _heads(block: Block) -> Iterator[str]:
    """Yield the lines of headings: what columns share above them, over a rule as wide as they are."""
    groups = [(over, list(same)) for over, same in groupby(block.columns, _over)]
    if any(over for over, _ in groups):
        yield f" & {' & '.join(_span(over, same) for over, same in groups)} \\\\"
        yield " ".join(_rules(groups))
    under = [_boxed((_under(column),), CELL, "raggedleft") for column in block.columns]
    yield f"{' & '.join([guard(escape(block.corner)), *under])} \\\\"


def _span(over: str, columns: Sequence[Column]) -> str:
    """Return the heading ``over`` above ``columns``, no wider than they are or a column may be."""
    if not over:
        return " & " * (len(columns) - 1)
    most = max(CELL, math.floor(sum(map(_column, columns))))
    return f"\\multicolumn{{{len(columns)}}}{{c}}{{{_boxed((over,), most, 'centering')}}}"


def _over(column: Column) -> str:
    return column.head[0] if len(column.head) > 1 else ""


def _under(column: Column) -> str:
    return " ".join(column.head[bool(_over(column)) :])


def _rules(groups: Sequence[tuple[str, Sequence[Column]]]) -> Iterator[str]:
    first = 2
    for over, columns in groups:
        if over:
            yield f"\\cmidrule(lr){{{first}-{first + len(columns) - 1}}}"
        first += len(columns)


def _boxed(lines: Lines, most: int, aligned: str) -> str:
    """Return a text, the parts behind the first in small type; broken where it is wider than ``most``."""
    first, *rest = map(escape, lines)
    if _wide(lines) <= most:
        return guard(_small(first, rest))
    kept = [part.replace(" ", "~") if part.startswith("[") else part for part in rest]
    return f"\\parbox[t]{{{most / 2:g}em}}{{\\{aligned} {guard(_small(first, kept))}\\strut}}"


def _small(first: str, rest: Sequence[str]) -> str:
    return f"{first} {{\\scriptsize {' '.join(rest)}}}" if rest else first


def _notes(notes: Sequence[str]) -> str:
    items = "\n".join(f"\\item {guard(escape(note))}" for note in notes)
    return f"{{\\footnotesize\n\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n}}"


def _width(block: Block) -> int:
    labels = max(map(_wide, block.labels or ((block.corner,),)))
    groups = [(over, list(same)) for over, same in groupby(block.columns, _over)]
    columns = [max(min(len(over), CELL), sum(map(_column, same))) for over, same in groups]
    return round(min(labels, LABEL) + sum(columns) + _GAP * len(block.columns))


def _column(column: Column) -> float:
    return min(CELL, max(map(_wide, ((_under(column),), *column.cells))))


def _wide(lines: Lines) -> float:
    first, *rest = lines
    return len(first) + _SMALL * sum(1 + len(line) for line in rest)
