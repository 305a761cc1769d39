"""csv and json: the long table, in the report's columns; see `ismn_cli.reporting.columns`."""

from __future__ import annotations

from json import dumps

from ismn_cli.reporting.table import Report, rows_of

SCHEMA_VERSION = 1


def csv(report: Report) -> str:
    """Return the table with one heading line; missing and undefined figures are empty."""
    text: str = report.frame.to_csv(index=False, lineterminator="\n")
    return text


def json(report: Report) -> str:
    """Return schema_version, title, caption, notes, columns (name: meaning) and rows (null: missing)."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "caption": report.caption,
        "notes": report.notes,
        "columns": {column.name: column.meaning for column in report.columns},
        "rows": rows_of(report.frame),
    }
    return dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
