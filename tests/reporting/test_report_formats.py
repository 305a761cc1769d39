"""All formats are drawn from one table: their figures agree, and no name breaks any of them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_cells import DEFENCES, FEW, LEVELS, TRICKY, matrix, results
from rich.cells import cell_len
from rich.console import Console

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Subject
from ismn_cli.reporting.attack_table import attack_report
from ismn_cli.reporting.columns import COLUMNS
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.defend_table import defend_report
from ismn_cli.reporting.exports import literal
from ismn_cli.reporting.render import FORMATS, render, render_text
from ismn_cli.reporting.seeds import over_seeds
from ismn_cli.reporting.table import Report, one_line

LISTS = st.lists(results(), max_size=4)
Make = Callable[[Sequence[CellResult]], Report]
REPORTS: tuple[Make, ...] = (comparison_report, attack_report, defend_report)
INTERVAL = re.compile(r"\[\d+\.\d, \d+\.\d\]")
GITHUB_COMMENT = 65_536


def terminal(report: Report, width: int = 100) -> str:
    """Return what a terminal shows, without colours."""
    stream = io.StringIO()
    Console(width=width, file=stream, color_system=None).print(render(report, "rich"))
    return stream.getvalue()


def inline_tokens(text: str) -> list[tuple[str, str]]:
    """Return (type, text) of everything inline in a markdown document, as GitHub's dialect reads it."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [(child.type, child.content) for token in tokens for child in token.children or ()]


def markdown_rows(text: str) -> list[list[str]]:
    """Return the cells of all tables, as plain text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if before.type in ("td_open", "th_open"):
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


@FEW
@given(LISTS)
def test_csv_and_json_hold_the_same_values(found: list[CellResult]) -> None:
    report = comparison_report(found)
    read = list(csv.DictReader(io.StringIO(render_text(report, "csv"))))
    rows = json.loads(render_text(report, "json"))["rows"]
    assert len(read) == len(rows)
    for left, right in zip(read, rows, strict=True):
        assert list(left) == list(right) == [column.name for column in report.columns]
        for column in COLUMNS:
            value = right[column.name]
            number = column.kind in ("Int64", "Float64") and value is not None
            text = "" if value is None else str(value)
            assert float(left[column.name]) == value if number else literal(left[column.name]) == text


@FEW
@given(LISTS)
def test_people_read_the_figures_of_the_csv(found: list[CellResult]) -> None:
    report = comparison_report(found)
    names = {"clean_accuracy", "accuracy", "accuracy_rejected_success", "accuracy_answered"}
    names |= {"robust_accuracy", "robust_rejected_success"}
    read = list(csv.DictReader(io.StringIO(render_text(report, "csv"))))
    held = {(row[n], f"[{row[f'{n}_low']}, {row[f'{n}_high']}]") for row in read for n in names if row[n]}
    several = {row["cell"] for merged in over_seeds(report.rows) for row in merged.get("members", ())}
    alone = [row for row in read if row["accuracy"] and row["cell"] not in several]
    needed = {(row["accuracy"], f"[{row['accuracy_low']}, {row['accuracy_high']}]") for row in alone}
    cells = {text for row in markdown_rows(render_text(report, "markdown")) for text in row[1:]}
    shown = {(m.group(1), m.group(2)) for text in cells if (m := re.match(r"([\d.]+) (\[[\d., ]+\])", text))}
    assert needed <= shown <= held
    on_screen = terminal(report, 5000)
    assert {interval for _, interval in needed} <= set(INTERVAL.findall(on_screen))
    assert all(value in on_screen for value, _ in needed)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_rich_and_markdown_show_the_same_tables(width: int) -> None:
    report = comparison_report(matrix())
    both = [terminal(report, width), render_text(report, "markdown")]
    tables = [set(INTERVAL.findall(text)) for text in both]
    assert tables[0] == tables[1] and len(tables[0]) > 40


@FEW
@given(LISTS, st.sampled_from(REPORTS))
def test_no_name_is_active_in_markdown(found: list[CellResult], make: Make) -> None:
    text = render_text(make(found), "markdown")
    assert {kind for kind, _ in inline_tokens(text)} <= {"text", "text_special", "softbreak"}
    widths = [len(row) for row in markdown_rows(text)]
    drawn = [line for line in text.splitlines() if line.startswith("|") and not line.startswith(("|:-", "|--"))]
    assert len(widths) == len(drawn) and min(widths) >= 1


@pytest.mark.parametrize("name", TRICKY)
@pytest.mark.parametrize("make", REPORTS)
def test_every_name_is_shown_as_it_is(name: str, make: Make) -> None:
    base = matrix()[1]
    where = base.cell.model_copy(update={"defence": Subject(name=name)})
    report = make([base.model_copy(update={"cell": where, "notes": (name,)})])
    shown = one_line(name)
    read = "".join(content for _, content in inline_tokens(render_text(report, "markdown")))
    assert any(shown in text for row in markdown_rows(render_text(report, "markdown")) for text in row)
    for text in (terminal(report, 5000), read, json.loads(render_text(report, "json"))["rows"][0]["defence"]):
        assert shown in text
    assert next(csv.DictReader(io.StringIO(render_text(report, "csv"))))["notes"] == shown


@FEW
@given(LISTS, st.sampled_from(REPORTS), st.integers(20, 200))
def test_terminal_lines_fit(found: list[CellResult], make: Make, width: int) -> None:
    assert max(map(cell_len, terminal(make(found), width).split("\n"))) <= width


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_figure_is_broken_at_usual_widths(width: int) -> None:
    tables, _, _ = terminal(comparison_report(matrix()), width).partition("• ")
    assert len(INTERVAL.findall(tables)) == tables.count("[") == tables.count("]") >= 5 * 13


def test_markdown_of_a_large_matrix_fits_a_github_comment() -> None:
    some = [one for one in matrix() if one.cell.attack is None or one.cell.attack.threat.eps in LEVELS]
    more = [
        one.model_copy(update={"cell": one.cell.model_copy(update={"defence": Subject(name=f"{name}-{copy}")})})
        for copy in range(3)
        for one in some
        for name in (one.cell.defence.name,)
    ]
    text = render_text(comparison_report(more), "markdown")
    assert len(text) < GITHUB_COMMENT / 2
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 120


def test_json_is_versioned_and_explains_itself() -> None:
    content = json.loads(render_text(comparison_report(matrix()), "json"))
    assert content["schema_version"] == 1
    assert content["columns"] == {column.name: column.meaning for column in COLUMNS}
    assert len(content["rows"]) == 4 * (13 + 4) and content["notes"]


@pytest.mark.parametrize("make", REPORTS)
def test_empty_input_gives_headings_only(make: Make) -> None:
    report = make([])
    assert render_text(report, "csv") == ",".join(column.name for column in COLUMNS) + "\n"
    assert json.loads(render_text(report, "json"))["rows"] == []
    assert len(markdown_rows(render_text(report, "markdown"))) == 1
    assert "Nothing is stored yet." in terminal(report)


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        render(comparison_report([]), "markdwon")
    assert "'markdown'" in caught.value.hint
    assert all(render(comparison_report([]), form) is not None for form in FORMATS)


def test_rows_of_a_report_are_plain_values() -> None:
    kinds = {type(value) for row in comparison_report(matrix()).rows for value in row.values()}
    assert kinds == {str, int, float, bool, type(None)}


def test_defences_stand_in_their_given_order() -> None:
    backwards = [one for name in reversed(DEFENCES) for one in matrix() if one.cell.defence.name == name]
    labels = [row[0] for row in markdown_rows(render_text(comparison_report(backwards), "markdown"))]
    magnet = ["magnet (strict)", "magnet (rejected = success)", "magnet (answered only)"]
    assert labels[1:7] == ["ddsa", *magnet, "ismn", "none"]
