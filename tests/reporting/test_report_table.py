"""The table behind every report: its columns, its rows, and that it stays light to import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW, answers, cell, matrix, result, results, samples

from ismn_cli.core.records import CellResult
from ismn_cli.reporting.columns import COLUMNS, RATES
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.table import Row, comparison, one_line

LISTS = st.lists(results(), max_size=4)


def only(one: CellResult) -> Row:
    """Return the row of a single result."""
    (row,) = comparison([one])
    return row


def test_columns_are_named_once_and_say_what_they_mean() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert all(column.meaning and column.name.isidentifier() for column in COLUMNS)


@FEW
@given(LISTS)
def test_table_has_exactly_the_documented_columns(found: list[CellResult]) -> None:
    report = comparison_report(found)
    frame = report.frame()
    assert all(tuple(row) == tuple(frame.columns) for row in report.rows)
    assert list(frame.columns) == [column.name for column in report.columns]
    assert report.columns[: len(COLUMNS)] == COLUMNS
    assert [str(kind).lower() for kind in frame.dtypes] == [column.kind.lower() for column in report.columns]


@FEW
@given(LISTS)
def test_one_row_per_distinct_cell_in_order(found: list[CellResult]) -> None:
    keys = [one.cell.key() for one in found]
    assert [row["cell"] for row in comparison(found + found)] == list(dict.fromkeys(keys))


@FEW
@given(results())
def test_rates_are_their_counts_rounded_once(one: CellResult) -> None:
    row = only(one)
    for rate in RATES:
        hits, total = row[f"{rate.name}_hits"], row[f"{rate.name}_total"]
        if total == 0:
            assert row[rate.name] is None and row[f"{rate.name}_low"] is None
            continue
        assert abs(row[rate.name] - 100 * hits / total) <= 0.05 + 1e-9
        assert 0 <= row[f"{rate.name}_low"] <= row[rate.name] <= row[f"{rate.name}_high"] <= 100


@FEW
@given(results())
def test_outcomes_add_up_to_the_images(one: CellResult) -> None:
    row = only(one)
    counts = [row[name] for name in ("survived", "broken", "detected", "wrong_clean", "unknown")]
    assert counts == [None] * 5 if one.attacked is None else sum(counts) == row["n"] == len(one.ids)


def test_strict_and_rejected_success_differ_by_the_refusals() -> None:
    clean = answers(10, right=9)
    row = only(result(cell("magnet", "fgsm", 0.2, samples=samples(n=10)), clean, answers(10, 4, rejected=3)))
    assert (row["accuracy_hits"], row["accuracy_rejected_success_hits"]) == (4, 7)
    assert (row["accuracy"], row["accuracy_rejected_success"], row["detection"]) == (40.0, 70.0, 30.0)


def test_interval_is_wilsons() -> None:
    row = only(result(cell("none", None, samples=samples(n=100)), answers(100, right=70)))
    # z = 1.96: (0.7 + z^2/200 -+ z sqrt(0.7 * 0.3 / 100 + z^2 / 40000)) / (1 + z^2 / 100)
    assert (row["clean_accuracy_low"], row["clean_accuracy_high"]) == (60.4, 78.1)


def test_distances_leave_out_failed_images() -> None:
    where = cell("none", "pgd", 0.2, samples=samples(n=3))
    kept = {"linf": (0.1, 0.2, 0.0), "l2": (1.0, 3.0, 0.0), "failed": (False, False, True)}
    row = only(result(where, answers(3, 3), answers(3, 0), **kept))
    assert (row["linf_mean"], row["linf_max"], row["l2_mean"], row["l2_max"]) == (0.15, 0.2, 2.0, 3.0)
    assert (row["unknown"], row["failed"], row["success_total"]) == (1, 1, 2)


def test_costs_are_per_image() -> None:
    where = cell("none", "pgd", 0.2, samples=samples(n=4))
    spent = {"forwards": 40, "backwards": 20, "craft_seconds": 0.2, "judge_seconds": 0.01}
    row = only(result(where, answers(4, 4), answers(4, 0, flagged=2, loops=3), **spent))
    assert (row["forwards_per_image"], row["backwards_per_image"]) == (10.0, 5.0)
    assert (row["attack_ms"], row["latency_ms"], row["loops_attacked"]) == (50.0, 2.5, 1.5)


def test_paper_stands_only_where_a_cell_corresponds() -> None:
    papers = {(r["defence"], r["level"]): r["paper"] for r in comparison(matrix()) if r["paper"]}
    assert len(papers) == 12
    assert papers["ismn", "0.2"] == 93.6
    assert {r["attack"] for r in comparison(matrix()) if r["paper"]} == {"fgsm"}


@FEW
@given(st.text())
def test_one_line_is_printable_and_stable(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert "\x1b" not in line and line == one_line(line)


def test_one_line_disarms_terminal_and_direction_codes() -> None:
    assert one_line("a\x1b[31mb\N{RIGHT-TO-LEFT OVERRIDE}c\r\nd") == "a [31mb c d"
    assert one_line("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}") == "👩‍💻"


@pytest.mark.parametrize("module", ["render", "comparison_table", "attack_table", "defend_table", "paired_table"])
def test_import_is_light(module: str) -> None:
    code = (
        f"import sys, ismn_cli.reporting.{module}; "
        "sys.exit(','.join({'torch', 'pandas', 'scipy', 'statsmodels', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
