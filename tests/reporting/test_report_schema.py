"""The JSON Schema that comes with the package, and the page on columns: of this code, and true of its reports.

ISMN_UPDATE_GOLDEN=1 writes both anew; read the diff.
"""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hostile import crowd
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from report_cells import FEW, ceilings, levels, matrix, results

from ismn_cli.core.records import CellResult
from ismn_cli.reporting import schema
from ismn_cli.reporting.attack_table import attack_report
from ismn_cli.reporting.ceiling_table import ceiling_report
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.defend_table import defend_report
from ismn_cli.reporting.paired_table import paired_report
from ismn_cli.reporting.render import render_text
from ismn_cli.reporting.table import Report

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "ismn_cli" / "reporting" / "schemas" / "report.schema.json"
PAGE = ROOT / "docs" / "report-format.md"
MARK = "writes them. -->\n\n"
SCHEMA: dict[str, Any] = json.loads(schema.text())
VALIDATOR = Draft202012Validator(SCHEMA)


def document(report: Report) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(render_text(report, "json"))
    return read


def table(name: str) -> Draft202012Validator:
    """Return the validator of a document whose rows are of the table ``name``."""
    rows = {"properties": {"rows": {"items": {"$ref": f"#/$defs/{name}"}}}}
    return Draft202012Validator({**SCHEMA, "anyOf": [rows]})


def test_the_files_are_up_to_date() -> None:
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    if os.environ.get("ISMN_UPDATE_GOLDEN"):
        SHIPPED.write_text(schema.text(), encoding="utf-8")
        PAGE.write_text(head + mark + schema.tables(), encoding="utf-8")
    assert SHIPPED.read_text(encoding="utf-8") == schema.text() == schema.stored()
    assert PAGE.read_text(encoding="utf-8") == head + mark + schema.tables() and mark


def test_the_schema_is_one_and_names_every_column() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for name, (_, columns) in schema.TABLES.items():
        told = SCHEMA["$defs"][name]["properties"]
        assert list(told)[: len(columns)] == [column.name for column in columns]
        assert all(told[column.name]["description"] == column.meaning for column in columns)
        page = PAGE.read_text(encoding="utf-8")
        assert all(f"`{re.sub('_(low|high|hits|total)$', '', column.name)}`" in page for column in columns)


@FEW
@given(st.lists(results(), max_size=4), st.sampled_from((comparison_report, attack_report, defend_report)))
def test_random_reports_are_valid(found: list[CellResult], make: Any) -> None:
    table("results").validate(document(make(found)))


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("results", comparison_report(matrix(), ceilings=ceilings())),
        ("results", comparison_report(levels())),
        ("results", comparison_report(crowd())),
        ("pairs", paired_report(levels(), "none", "magnet")),
        ("ceilings", ceiling_report(ceilings())),
    ],
)
def test_each_table_is_valid_as_itself(name: str, report: Report) -> None:
    read = document(report)
    table(name).validate(read)
    VALIDATOR.validate(read)
    others = [other for other in schema.TABLES if other not in (name, "runs")]
    assert not [other for other in others if table(other).is_valid(read)]


BROKEN = {
    "version": lambda d: d.update(schema_version=2),
    "no notes": lambda d: d.pop("notes"),
    "no column": lambda d: d["rows"][0].pop("accuracy"),
    "text for a figure": lambda d: d["rows"][0].update(accuracy="71.2"),
    "half an image": lambda d: d["rows"][0].update(accuracy_hits=0.5),
    "more than all": lambda d: d["rows"][0].update(clean_accuracy=100.1),
    "less than none": lambda d: d["rows"][0].update(accuracy_low=-0.1),
    "a list": lambda d: d["rows"][0].update(defence=["ismn"]),
}


@pytest.mark.parametrize("change", BROKEN)
def test_what_is_wrong_is_refused(change: str) -> None:
    read = copy.deepcopy(document(comparison_report(matrix()[:3])))
    BROKEN[change](read)
    with pytest.raises(ValidationError):
        VALIDATOR.validate(read)


def test_a_column_of_a_later_version_is_no_error() -> None:
    read = document(comparison_report(matrix()[:3]))
    read["rows"][0]["new"] = 1.5
    VALIDATOR.validate(read)
