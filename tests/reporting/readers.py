"""Every format read back, by parsers that know nothing of how it was written: what a table says, box by box."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import chain
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console

from ismn_cli.reporting.exports import literal
from ismn_cli.reporting.layout import Lines, Sheet
from ismn_cli.reporting.render import render, render_text
from ismn_cli.reporting.table import Report, Row

Box = tuple[str, str, str]
"""(row, column, what stands there), without spaces."""
Tables = list[list[list[str]]]
"""Tables as rows of texts, the headings first."""


def plain(text: str) -> str:
    """Return ``text`` without spaces: where lines are broken is a matter of dress."""
    return "".join(text.split())


def boxes_of(sheets: Sequence[Sheet]) -> set[Box]:
    """Return what the sheets say."""
    return {
        (_joined(label), _joined(column.head), _joined(column.cells[i]))
        for sheet in sheets
        for column in chain(sheet.lead, *sheet.groups)
        for i, label in enumerate(sheet.labels)
    }


def columns_of(sheets: Sequence[Sheet]) -> set[str]:
    """Return each column of each sheet as one text, from its heading down."""
    whole = [
        ((sheet.corner,), sheet.labels, [*sheet.lead, *chain(*sheet.groups)]) for sheet in sheets
    ]
    lists = [[(corner, *labels), *((c.head, *c.cells) for c in columns)] for corner, labels, columns in whole]
    return {"".join(map(_joined, column)) for columns in lists for column in columns}


def _joined(lines: Lines) -> str:
    return plain(" ".join(lines))


def boxes(report: Report, form: str) -> set[Box]:
    """Return what ``report`` says in a format of tables."""
    return {
        (plain(row[0]), plain(table[0][i]), plain(row[i]))
        for table in TABLES[form](render_text(report, form))
        for row in table[1:]
        for i in range(1, len(row))
    }


def rows(report: Report, form: str) -> list[Row]:
    """Return the rows of ``report`` as they are read from csv or json; a text without letters as missing."""
    text = render_text(report, form)
    if form == "json":
        return without_empty(json.loads(text)["rows"])
    kinds = {column.name: column.kind for column in report.columns}
    read = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return without_empty([{name: _value(kinds[name], entry) for name, entry in row.items()} for row in read])


def without_empty(rows: Sequence[Row]) -> list[Row]:
    """Return ``rows`` with None for empty texts: csv does not tell them from what is missing."""
    return [{name: None if value == "" else value for name, value in row.items()} for row in rows]


def _value(kind: str, entry: str) -> Any:
    if kind == "string":
        return literal(entry)
    if not entry:
        return None
    return entry == "True" if kind == "boolean" else int(entry) if kind == "Int64" else float(entry)


def markdown_tables(text: str) -> Tables:
    """Read pipe tables as GitHub does."""
    tables: Tables = []
    inside = False
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "table_open":
            tables.append([])
        if token.type == "tr_open":
            tables[-1].append([])
        if token.type in ("td_open", "th_open", "td_close", "th_close"):
            inside = token.type.endswith("open")
        if inside and token.type == "inline":
            tables[-1][-1].append(_inline(token))
    return tables


def _inline(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


class _Page(HTMLParser):
    """Reads the tables of a page; every other tag inside them is left out, and its text is kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: Tables = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tables[-1][-1][-1] += data


def html_page(text: str) -> _Page:
    """Parse a page."""
    page = _Page()
    page.feed(text)
    page.close()
    return page


def html_tables(text: str) -> Tables:
    """Read the tables of a page."""
    return html_page(text).tables


TEX = re.compile(
    r"\\parbox\[t\]\{[\d.]+em\}|\\texttt\{U\+(?P<point>[0-9A-F]+)\}|\\multicolumn\{(?P<span>\d+)\}\{c\}"
    r"|\\(?P<word>[a-zA-Z]+)(?:\{\}| ?)|\\(?P<sign>[&%$#_{}\\])|(?P<ligature>--|''|,,|``)|(?P<one>[\s\S])"
)
GREEK = "alpha beta gamma delta epsilon lambda mu pi sigma omega Delta Omega"
WORDS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textasciigrave": "`", "textless": "<",
    "textgreater": ">", "textbar": "|", "textquotedbl": '"', "dots": "…", "textbullet": "•", "texteuro": "€",
    "textendash": "–", "textemdash": "—", "textquoteleft": "‘", "textquoteright": "’", "textquotedblleft": "“",
    "textquotedblright": "”", "uparrow": "↑", "downarrow": "↓", "rightarrow": "→", "leq": "≤", "geq": "≥",
    "infty": "∞", **dict.fromkeys(("scriptsize", "raggedright", "raggedleft", "centering", "strut"), ""),
    **dict(zip(GREEK.split(), "αβγδελμπσωΔΩ", strict=True)),
}  # fmt: skip


@dataclass
class _Tex:
    """A line of a tabular while it is read: its boxes, and over how many columns each goes."""

    boxes: list[str] = field(default_factory=lambda: [""])
    spans: list[int] = field(default_factory=lambda: [1])

    def read(self, match: re.Match[str]) -> None:
        if match["span"]:
            self.spans[-1] = int(match["span"])
        elif match["one"] == "&":
            self.boxes.append("")
            self.spans.append(1)
        elif match["sign"] == "\\":
            raise AssertionError("a line ends within a line")
        else:
            self.boxes[-1] += _sign(match)

    def columns(self) -> list[str]:
        return [text.strip() for text, span in zip(self.boxes, self.spans, strict=True) for _ in range(span)]


def _sign(match: re.Match[str]) -> str:
    if match["point"]:
        return chr(int(match["point"], 16))
    if match["word"]:
        return WORDS[match["word"]]
    assert not match["ligature"], match["ligature"]
    one = match["one"] or ""
    return match["sign"] or {"~": " ", "{": "", "}": "", "$": ""}.get(one, one)


def tex_words(text: str) -> str:
    """Return what LaTeX sets for ``text``, which has no line end and no column."""
    (found,) = _tex_line(text)
    return found


def _tex_line(text: str) -> list[str]:
    line = _Tex()
    for match in TEX.finditer(text):
        line.read(match)
    return line.columns()


def latex_tables(text: str) -> Tables:
    """Read tabulars: headings of several lines are put together."""
    found = re.findall(r"\\begin\{tabular\}\{@\{\}(l r*|lr*)@\{\}\}\n\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    tables = []
    for columns, body in found:
        head, _, rest = body.partition("\\midrule\n")
        tiers = [_tex_line(line) for line in _ended(head)]
        headings = ["".join(parts) for parts in zip(*tiers, strict=True)]
        tables.append([headings, *(_tex_line(line) for line in _ended(rest))])
        assert {len(row) for row in (*tiers, *tables[-1])} == {len(columns)}
    return tables


def _ended(body: str) -> Iterator[str]:
    """Yield the lines of a tabular, each of which ends as a line of it does; rules are left out."""
    for line in body.splitlines():
        if not line.startswith("\\cmidrule"):
            assert line.endswith(" \\\\"), line
            yield line.removesuffix(" \\\\")


TABLES: dict[str, Callable[[str], Tables]] = {
    "markdown": markdown_tables,
    "latex": latex_tables,
    "html": html_tables,
}
"""Formats that show tables as text, and who reads them."""


def terminal(report: Report, width: int = 100) -> str:
    """Return what a terminal shows, without colours."""
    stream = io.StringIO()
    Console(width=width, file=stream, color_system=None).print(render(report, "rich"))
    return stream.getvalue()


def terminal_columns(report: Report) -> set[str]:
    """Return each column of each table on a terminal of any width as one text, from its heading down."""
    drawn = terminal(replace(report, notes=()), 20_000)
    chunks = [chunk for chunk in drawn.split("\n\n")[1:] if chunk.strip()]
    titles = [bool(sheet.title) for sheet in report.sheets()]
    tables = [_drawn(chunk.strip("\n").split("\n")[titled:]) for chunk, titled in zip(chunks, titles, strict=True)]
    return {plain("".join(column)) for table in tables for column in table}


def _drawn(lines: Sequence[str]) -> list[list[str]]:
    """Return the columns of a drawn table: they are set apart by two spaces everywhere."""
    rows = [_spread(line) for line in lines if line.strip("─ ")]
    width = max(map(len, rows))
    whole = [row + [" "] * (width - len(row)) for row in rows]
    blank = [all(row[i] == " " for row in whole) for i in range(width)]
    columns: list[list[str]] = [[""] * len(whole)]
    for i in range(width):
        apart = blank[i] and (i + 1 < width and blank[i + 1])
        if apart and any(columns[-1]):
            columns.append([""] * len(whole))
        for j, row in enumerate(whole):
            columns[-1][j] += row[i] if not blank[i] else ""
    return [column for column in columns if any(column)]


def _spread(line: str) -> list[str]:
    """Return what stands in each cell of a terminal's line: a sign two cells wide in the first of them."""
    cells = [""]
    for sign in line:
        width = cell_len(sign)
        if width:
            cells += [sign, *[""] * (width - 1)]
        else:
            cells[-1] += sign
    return cells[1:]
