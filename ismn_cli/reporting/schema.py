"""What `--format json` and `--format csv` contain, from the columns of every table: a JSON Schema, and a page.

Both are files, of the package and of the documentation; a test compares them with what is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from json import dumps
from typing import Any

from ismn_cli.reporting import balance, ceiling_table, claims_table, columns, compare_table, paired_table, rerun_table
from ismn_cli.reporting.columns import Column
from ismn_cli.reporting.exports import SCHEMA_VERSION
from ismn_cli.reporting.markdown import escape

TABLES: Mapping[str, tuple[str, Sequence[Column]]] = {
    "results": ("`ismn report`", columns.COLUMNS),
    "pairs": ("`ismn report --compare`", paired_table.COLUMNS),
    "runs": ("`ismn compare`", compare_table.COLUMNS),
    "repeats": ("`ismn rerun`", rerun_table.COLUMNS),
    "claims": ("`ismn claims`", claims_table.COLUMNS),
    "ceilings": ("`ismn ceiling`", ceiling_table.COLUMNS),
}
"""Who writes each table, and its columns."""
SOMETIMES: Mapping[str, Sequence[Column]] = {"results": balance.COLUMNS}
"""Columns that a table has where they mean something, after all others."""
_TYPES = {"string": "string", "Int64": "integer", "Float64": "number", "boolean": "boolean"}
_FILE = "report.schema.json"


def stored() -> str:
    """Return the JSON Schema that comes with the package."""
    return (files("ismn_cli.reporting") / "schemas" / _FILE).read_text(encoding="utf-8")


def text() -> str:
    """Return the JSON Schema (draft 2020-12) of what `exports.json` writes."""
    properties: dict[str, Any] = {
        "schema_version": {"const": SCHEMA_VERSION},
        "title": {"type": "string"},
        "caption": {"type": "string", "description": "What the figures are."},
        "notes": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What a reader must know, most important first.",
        },
        "columns": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "The meaning of each column, in the order of the table.",
        },
        "rows": {"type": "array", "items": {"type": "object"}, "description": "By column; null: missing or undefined."},
    }
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:ismn:report:{SCHEMA_VERSION}",
        "title": "ismn report",
        "description": "What ismn writes with --format json. Within a schema version columns may be added; none is "
        "renamed or changes its meaning.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "anyOf": [{"properties": {"rows": {"items": {"$ref": f"#/$defs/{name}"}}}} for name in TABLES],
        "$defs": {name: _row(writer, always, SOMETIMES.get(name, ())) for name, (writer, always) in TABLES.items()},
    }
    return dumps(content, ensure_ascii=False, indent=1) + "\n"


def _row(writer: str, always: Sequence[Column], sometimes: Sequence[Column]) -> dict[str, Any]:
    rates = _rates(always)
    return {
        "description": f"A row of {writer}.",
        "type": "object",
        "properties": {column.name: _property(column, rates) for column in (*always, *sometimes)},
        "required": [column.name for column in always],
        "additionalProperties": {"type": [*_TYPES.values(), "null"]},
    }


def _property(column: Column, rates: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": [_TYPES[column.kind], "null"], "description": column.meaning}
    if column.name in rates:
        found["minimum"] = 0
        if column.kind == "Float64":
            found["maximum"] = 100
    return found


def _rates(found: Iterable[Column]) -> dict[str, str]:
    """Return the columns that belong to a rate, with the rate's name."""
    names = [column.name.removesuffix("_hits") for column in found if column.name.endswith("_hits")]
    return {f"{name}{part}": name for name in names for part in ("", "_low", "_high", "_hits", "_total")}


def tables() -> str:
    """Return the columns of every table in markdown, a rate's five as one."""
    parts = [
        "\n".join([f"## {name}: {writer}", "", "| column | type | meaning |", "|:--|:--|:--|", *_lines(name, always)])
        for name, (writer, always) in TABLES.items()
    ]
    return "\n\n".join(parts) + "\n"


def _lines(table: str, always: Sequence[Column]) -> Iterator[str]:
    rates = _rates(always)
    for column in (*always, *SOMETIMES.get(table, ())):
        rate = rates.get(column.name)
        if rate is None or rate == column.name:
            kind = "rate" if rate else _TYPES[column.kind]
            note = "" if column in always else " (only where classes are few or uneven)"
            yield f"| `{column.name}` | {kind} | {escape(column.meaning)}{note} |"
