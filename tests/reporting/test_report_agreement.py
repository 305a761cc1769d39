"""Every format says the same to the last digit: each is read back, and the table laid out anew from the json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readers import TABLES, boxes, boxes_of, columns_of, rows, terminal_columns, without_empty
from report_cells import FEW, ceilings, levels, matrix, results

from ismn_cli.core.records import CellResult
from ismn_cli.reporting.attack_table import attack_report
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.defend_table import defend_report
from ismn_cli.reporting.layout import Sheet
from ismn_cli.reporting.paired_table import paired_report
from ismn_cli.reporting.render import FORMATS, render_text
from ismn_cli.reporting.table import Report, Row

Make = Callable[[Sequence[CellResult]], Report]
REPORTS: tuple[Make, ...] = (comparison_report, attack_report, defend_report)
MADE: dict[str, Callable[[], Report]] = {
    "comparison": lambda: comparison_report(matrix(), ceilings=ceilings()),
    "levels": lambda: comparison_report(levels(), ceilings=ceilings(200)),
    "attack": lambda: attack_report(levels()),
    "defend": lambda: defend_report(matrix()),
    "paired": lambda: paired_report(levels(), "none", "magnet"),
    "nameless": lambda: comparison_report([renamed(one, "\0") for one in matrix()]),
}


def renamed(one: CellResult, method: str) -> CellResult:
    """Return a result whose attack, if it has one, is called ``method``."""
    where = one.cell
    if where.attack is not None:
        where = where.model_copy(update={"attack": where.attack.model_copy(update={"method": method})})
    return one.model_copy(update={"cell": where})


def agree(report: Report) -> None:
    """Check that ``report`` is the same in every format."""
    for form in ("csv", "json"):
        assert rows(report, form) == without_empty(report.rows), form
    sheets = laid_out(report)
    for form in TABLES:
        assert boxes(report, form) == boxes_of(sheets), form


def laid_out(report: Report) -> list[Sheet]:
    """Return the table as it is laid out from the rows of its json."""
    read: list[Row] = json.loads(render_text(report, "json"))["rows"]
    return report.layout(read)


def test_every_format_is_compared() -> None:
    assert {"rich", "csv", "json", *TABLES} == set(FORMATS)


@FEW
@given(st.lists(results(), min_size=1, max_size=4), st.sampled_from(REPORTS))
def test_random_records_say_the_same_in_every_format(found: list[CellResult], make: Make) -> None:
    agree(make(found))


@pytest.mark.parametrize("name", MADE)
def test_reports_say_the_same_in_every_format(name: str) -> None:
    report = MADE[name]()
    agree(report)
    assert len(boxes(report, "latex")) > 30
    assert terminal_columns(report) == columns_of(laid_out(report))


@FEW
@given(st.lists(results(), min_size=1, max_size=4), st.sampled_from(REPORTS))
def test_a_terminal_says_the_same(found: list[CellResult], make: Make) -> None:
    report = make(found)
    assert terminal_columns(report) == columns_of(laid_out(report))
