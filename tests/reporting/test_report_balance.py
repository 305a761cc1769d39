"""Few or uneven classes in a report: a column, a note and two columns of the table; nothing elsewhere."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import pytest
from report_cells import answers, cell, result

from ismn_cli.core.records import CellResult
from ismn_cli.reporting.columns import COLUMNS
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.render import render_text

NAMES = ["clean_balanced_accuracy", "majority_class"]


def measured(labels: Sequence[int]) -> list[CellResult]:
    """Return MagNet, clean and attacked, answering 0 to all and refusing the last ten of a thousand images."""
    clean = answers(1000, 1000, rejected=10)
    attacked = answers(1000, 1000, rejected=500)
    return [
        result(cell("magnet", None), clean, labels=tuple(labels)),
        result(cell("magnet", "pgd", 0.1), clean, attacked, labels=tuple(labels)),
    ]


def test_two_classes_show_both_figures() -> None:
    report = comparison_report(measured([0] * 700 + [1] * 300))
    assert [column.name for column in report.columns] == [*(c.name for c in COLUMNS), *NAMES]
    assert report.frame()[NAMES].to_numpy().tolist() == [[50.0, 70.0]] * 2  # all refusals are of the other class
    assert report.frame()["clean_accuracy"].tolist() == [70.0, 70.0]
    (sheet,) = report.sheets()
    heads = [column.head[0] for column in sheet.lead]
    assert heads == ["clean", "balanced"]
    assert sheet.lead[1].cells == (("50.0",), ("–",), ("–",))  # beside strict, once
    (note,) = [note for note in report.notes if note.startswith("Classes:")]
    assert "70.0 % of cifar10 test, first 1,000 of 10,000 images, are of one class" in note
    assert "balanced" in render_text(report, "markdown")
    (first, _) = csv.DictReader(io.StringIO(render_text(report, "csv")))
    assert (first["clean_balanced_accuracy"], first["majority_class"]) == ("50.0", "70.0")
    assert json.loads(render_text(report, "json"))["rows"][0]["majority_class"] == 70.0


def test_a_refusal_is_no_answer() -> None:
    found = comparison_report(measured([1] * 300 + [0] * 700)).frame()["clean_balanced_accuracy"].tolist()
    assert found[0] == pytest.approx(100 * (690 / 700 + 0) / 2, abs=0.05)


def test_ten_even_classes_are_as_they_always_were() -> None:
    report = comparison_report(measured([i % 10 for i in range(1000)]))
    assert report.columns == COLUMNS
    assert [c.head[0] for sheet in report.sheets() for c in sheet.lead] == ["clean"]
    assert not [note for note in report.notes if note.startswith("Classes")]


def test_uneven_classes_beside_even_ones() -> None:
    """Where one data set of several wants the figures, the others' cells are empty."""
    even = [r.model_copy(update={"cell": cell("none", None, samples=r.cell.samples.model_copy(update={"data": "b"}))})
            for r in measured([i % 10 for i in range(1000)])[:1]]
    report = comparison_report([*measured([0] * 600 + [i % 4 for i in range(400)]), *even])
    assert report.frame()["majority_class"].isna().tolist() == [False, False, True]
    assert sorted(len(sheet.lead) for sheet in report.sheets()) == [1, 2]
