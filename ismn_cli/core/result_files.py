"""A stored result as a file, known by what is in it: a run's record, or one cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import SCHEMA_VERSION, CellResult, RunRecord
from ismn_cli.core.storage import is_remote, misshapen, read_bytes

WHICH = "Give a run's record, STORE/runs/RUN/record.json, or a cell, STORE/cells/../KEY.json."


def read_result(path: Path) -> RunRecord | CellResult:
    """Return the record of a run or of a cell in a file. Raises UsageError for anything else, saying what it is."""
    try:
        text = (read_bytes(path) or b"") if is_remote(path) else path.expanduser().read_bytes()
        content: Any = json.loads(text)
    except IsADirectoryError:
        raise UsageError(f"'{path}' is a folder.", f"Give the file in it: {path / 'record.json'}") from None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}.", WHICH) from None
    except (ValueError, RecursionError):
        raise UsageError(f"'{path}' is no JSON.", WHICH) from None
    if not isinstance(content, dict):
        raise UsageError(f"'{path}' holds no record.", WHICH)
    cls = _kind(path, content)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"'{path}' is of schema version {version}; this ismn reads version {SCHEMA_VERSION}.",
            "Repeat it with the ismn that wrote it.",
        )
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"'{path}' is damaged: {_problem(error)}.", WHICH) from None


def store_of(path: Path) -> Path | None:
    """Return the store that a record or cell lies in, by its place; None where it is elsewhere."""
    parents = (path if is_remote(path) else path.expanduser().resolve()).parents
    return parents[2] if len(parents) > 2 and parents[1].name in ("runs", "cells") else None


def _kind(path: Path, content: dict[str, Any]) -> type[RunRecord | CellResult]:
    """Return what a file holds by its fields. Raises UsageError for what cannot be repeated."""
    if {"recipe", "environment"} <= set(content):
        return RunRecord
    if {"cell", "clean"} <= set(content):
        return CellResult
    told = "holds no record of a run or a cell"
    if {"rows", "columns"} <= set(content):
        told = "is a report, which is drawn from results and does not say how to repeat them"
    elif "findings" in content:
        told = "is an audit; its run's record lies beside it"
    raise UsageError(f"'{path}' {told}.", WHICH)


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    return f"{place}: {first['msg']} ({misshapen(error)})"
