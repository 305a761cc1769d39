"""csv and json: the long table, in the report's columns; see `ismn_cli.reporting.columns`."""

from __future__ import annotations

import re
from json import dumps
from typing import Any

from ismn_cli.reporting.table import Report

SCHEMA_VERSION = 1
_FORMULA = re.compile(r"'*[=+\-@＝＋－＠]")
"""How a text begins that a spreadsheet would compute (OWASP, CSV Injection), or that was told from one already."""


def csv(report: Report) -> str:
    """Return the table with one heading line; missing and undefined figures are empty.

    A text that begins as a formula does has an apostrophe before it, so that a spreadsheet shows it.
    """
    texts = [column.name for column in report.columns if column.kind == "string"]
    frame = report.frame()
    shown = frame.assign(**{name: frame[name].map(inert) for name in texts})
    text: str = shown.to_csv(index=False, lineterminator="\n")
    return text


def inert(value: Any) -> Any:
    """Return ``value``, a text that a spreadsheet would compute behind an apostrophe; see `literal`."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def literal(text: str) -> str:
    """Return what `inert` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def json(report: Report) -> str:
    """Return schema_version, title, caption, notes, columns (name: meaning) and rows (null: missing)."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "caption": report.caption,
        "notes": report.notes,
        "columns": {column.name: column.meaning for column in report.columns},
        "rows": report.rows,
    }
    return dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
