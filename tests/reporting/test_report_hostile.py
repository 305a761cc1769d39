"""Names break no format and inject nothing: to real parsers a report has as many rows and columns as it should."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from unicodedata import normalize

import pytest
from hostile import NAMES, Name, crowd, named
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from readers import html_page, latex_tables, markdown_tables, rows, terminal, tex_words, without_empty
from report_cells import FEW

from ismn_cli.core.records import CellResult
from ismn_cli.reporting.attack_table import attack_report
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.defend_table import defend_report
from ismn_cli.reporting.exports import inert, literal
from ismn_cli.reporting.paired_table import paired_report
from ismn_cli.reporting.render import FORMATS, render_text
from ismn_cli.reporting.table import Report, one_line
from ismn_cli.reporting.tex import escape

Make = Callable[[Sequence[CellResult]], Report]


def _paired(found: Sequence[CellResult]) -> Report:
    first, second = dict.fromkeys(row["defence"] for row in comparison_report(found).rows)
    return paired_report(found, first, second)


MAKES: tuple[Make, ...] = (comparison_report, attack_report, defend_report, _paired)
PLAIN = "plain{}".format
TAGS = "heading paragraph bullet_list list_item table thead tbody tr th td"
COMMANDS = (
    "begin end clearpage centering small setlength tabcolsep caption label par smallskip medskip toprule midrule "
    "bottomrule cmidrule multicolumn scriptsize footnotesize item usepackage texttt textbackslash textasciitilde dots "
    "textasciicircum textasciigrave textless textgreater textbar textquotedbl textbullet Omega uparrow downarrow "
    "textendash textemdash parbox raggedright raggedleft strut"
)


def around(text: str) -> Name:
    """Return names that begin and end with ``text``."""
    return lambda mark: f"{text}{mark}{text}"


def check_csv(report: Report) -> None:
    """The same rows and columns, and no text that a spreadsheet computes."""
    written = render_text(report, "csv")
    head, *body = csv.reader(io.StringIO(written, newline=""), strict=True)
    assert head == [column.name for column in report.columns]
    assert {len(row) for row in body} == {len(head)} and len(body) == len(report.rows)
    texts = {column.name for column in report.columns if column.kind == "string"}
    starts = {entry[:1] for row in body for name, entry in zip(head, row, strict=True) if name in texts}
    assert not starts & set("=+-@\t\r＝")
    assert rows(report, "csv") == without_empty(report.rows)
    assert written.count("\n") == len(body) + 1 and "\r" not in written and "\0" not in written


def check_json(report: Report) -> None:
    """The same rows and columns."""
    read = json.loads(render_text(report, "json"))
    assert read["rows"] == report.rows
    assert list(read["columns"]) == [column.name for column in report.columns]


def check_markdown(report: Report) -> None:
    """Headings, tables and lists as they should be; within them nothing but text, and no address."""
    written = render_text(report, "markdown")
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(written)
    opened = Counter(token.type.removesuffix("_open") for token in tokens if token.type.endswith("_open"))
    assert opened["heading"] == 1 + sum(bool(sheet.title) for sheet in report.sheets())
    assert opened["list_item"] == len(report.notes)
    assert opened.keys() <= set(TAGS.split())
    assert {token.type for token in tokens if token.nesting == 0} == {"inline"}
    assert {child.type for token in tokens for child in token.children or ()} <= {"text", "text_special", "softbreak"}
    assert not re.search(r"[^\\]://|www\.|[^\\]@", written)
    tables = markdown_tables(written)
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert sum(map(len, tables)) == len(lines) - len(tables)  # each has a line of alignment
    assert all(len({len(row) for row in table}) == 1 for table in tables)


def check_latex(report: Report) -> None:
    """Every tabular is whole, and every command is one of ours."""
    written = render_text(report, "latex")
    assert set(re.findall(r"(?<!\\)(?:\\\\)*\\([a-zA-Z]+)", written)) <= set(COMMANDS.split())
    assert written.count("\\begin{tabular}") == len(latex_tables(written)) > 0
    assert written.count("\\begin{") == written.count("\\end{") and "^^" not in written
    assert all(line.isprintable() for line in written.split("\n"))


def check_html(report: Report) -> None:
    """Every table is whole, and every tag is one that a page of tables has."""
    page, tables = html_page(render_text(report, "html")), [sheet for sheet in report.sheets() if sheet.labels]
    assert [len(table) - 1 for table in page.tables] == [len(sheet.labels) for sheet in tables][:60]
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)
    assert page.tags.count("script") == 1 and not {"img", "b", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all((value or "").startswith("#") for name, value in page.attributes if name in ("href", "src"))


def check_terminal(report: Report) -> None:
    """Nothing that a terminal acts on."""
    written = terminal(report).replace("\N{ZERO WIDTH JOINER}", "")
    assert all(line.isprintable() for line in written.split("\n"))


CHECKS: dict[str, Callable[[Report], None]] = {
    "csv": check_csv,
    "json": check_json,
    "markdown": check_markdown,
    "latex": check_latex,
    "html": check_html,
    "rich": check_terminal,
}


def test_every_format_is_checked() -> None:
    assert set(CHECKS) == set(FORMATS)


@pytest.mark.parametrize("form", FORMATS)
def test_each_hostile_name_in_each_format(form: str) -> None:
    for make in MAKES[:3]:
        CHECKS[form](make(crowd()))


@pytest.mark.parametrize("form", FORMATS)
@FEW
@given(text=NAMES, make=st.sampled_from(MAKES))
def test_any_name_in_each_format(form: str, text: str, make: Make) -> None:
    CHECKS[form](make(named(around(text))))


@given(st.text(st.sampled_from("'=+-@a"), max_size=5) | NAMES)
def test_an_apostrophe_before_a_formula_can_be_taken_away_again(text: str) -> None:
    assert literal(inert(text)) == text
    assert inert(text)[:1] not in tuple("=+-@")


@given(NAMES)
def test_latex_sets_every_sign_of_a_name(text: str) -> None:
    assert tex_words(escape(text)) == normalize("NFC", one_line(text))


@FEW
@given(NAMES, st.sampled_from(MAKES))
def test_html_has_the_tags_of_harmless_names(text: str, make: Make) -> None:
    page, harmless = (html_page(render_text(make(named(name)), "html")) for name in (around(text), PLAIN))
    assert page.tags == harmless.tags
