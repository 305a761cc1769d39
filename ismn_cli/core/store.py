"""The store: a folder of cells, adversarial examples and runs, whole at every moment.

Everything is written beside its place and moved into it, so that a kill leaves the old content or none, and
two processes may write at once. What cannot be read is reported, moved aside and computed again.

    runs/<id>/record.json    cells/<aa>/<key>.json    examples/<aa>/<key>/batch-00000.safetensors
    ceilings/<key>.json      findings/<key>.json      corrupt/
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from ismn_cli.core.ceilings import Ceiling, ceiling_key
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.examples import Examples
from ismn_cli.core.findings import Finding
from ismn_cli.core.records import CellResult, Environment, RunKind
from ismn_cli.core.runs import Run, open_run, read_run
from ismn_cli.core.specs import Cell, Norm, Samples
from ismn_cli.core.storage import move_aside, unreadable, write_text, writing

Stored = TypeVar("Stored")
_FINDINGS = TypeAdapter(tuple[Finding, ...])
_KEY = re.compile(r"[0-9a-f]{64}")


class Store:
    """A store in the folder ``root``, which exists and can be written to; see `Store.open`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path | None = None) -> Store:
        """Return the store at ``root``, else at ISMN_HOME, else at ~/.ismn; make the folder if need be.

        Raises UsageError where the folder cannot be made or written to.
        """
        chosen = root or Path(os.environ.get("ISMN_HOME") or "~/.ismn")
        try:
            chosen = chosen.expanduser().absolute()
        except RuntimeError:
            raise UsageError("There is no home folder.", "Set ISMN_HOME to a folder for results.") from None
        with writing(chosen):
            chosen.mkdir(parents=True, exist_ok=True)
            if not os.access(chosen, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        return cls(chosen)

    def cell(self, key: str) -> CellResult | None:
        """Return the result stored under ``key``; None where there is none that can be trusted."""
        path = self._cell_path(key)
        result = self._read(path, CellResult.model_validate_json)
        if result is None:
            return None
        problem = _column_problem(result)
        if result.cell.key() != key:
            problem = "it holds another cell"
        if problem:
            move_aside(self.root, path, problem)
        return None if problem else result

    def put_cell(self, result: CellResult) -> None:
        """Store ``result`` under its cell's key.

        Raises UsageError where it cannot be written, ValueError where its columns are not of one length.
        """
        problem = _column_problem(result)
        if problem:
            raise ValueError(f"cell result: {problem}")
        # json, not pydantic, because the latter writes NaN as null
        write_text(self._cell_path(result.cell.key()), json.dumps(result.model_dump(mode="json")))

    def examples(self, key: str) -> Examples:
        """Return the adversarial examples under ``key`` (see `Cell.examples_key`), as yet perhaps none."""
        return Examples(self.root, self.root / "examples" / _checked(key)[:2] / key)

    def ceiling(self, samples: Samples, norm: Norm, eps: float) -> Ceiling | None:
        """Return the ceiling of these images; None where there is none that can be trusted."""
        path = self._ceiling_path(ceiling_key(samples, norm, eps))
        found = self._read(path, Ceiling.model_validate_json)
        if found is not None and found.place() != path.stem:
            move_aside(self.root, path, "it holds the ceiling of other images or of another size")
            return None
        return found

    def put_ceiling(self, ceiling: Ceiling) -> None:
        """Store ``ceiling``. Raises UsageError where it cannot be written."""
        write_text(self._ceiling_path(ceiling.place()), json.dumps(ceiling.model_dump(mode="json")))

    def ceilings_of(self, cells: Iterable[Cell]) -> tuple[Ceiling, ...]:
        """Return the ceilings that are stored for the images, norms and sizes of the attacked among ``cells``."""
        threats = [(cell.samples, cell.attack.threat) for cell in cells if cell.attack is not None]
        places = {ceiling_key(samples, t.norm, t.eps): (samples, t.norm, t.eps) for samples, t in threats}
        return tuple(found for place in places.values() if (found := self.ceiling(*place)))

    def findings(self, key: str) -> tuple[Finding, ...] | None:
        """Return what a probe of an audit found; None where there is nothing that can be trusted."""
        return self._read(self._findings_path(key), _FINDINGS.validate_json)

    def put_findings(self, key: str, findings: Iterable[Finding]) -> None:
        """Store what a probe found. Raises UsageError where it cannot be written."""
        write_text(self._findings_path(key), json.dumps([finding.model_dump(mode="json") for finding in findings]))

    def start_run(
        self,
        kind: RunKind,
        name: str,
        recipe: Mapping[str, JsonValue],
        environment: Environment,
        identity: str,
    ) -> Run:
        """Return the run with this ``identity``, the content hash of what it is: a new one or the one begun.

        A run that was done stays so; any other is marked as running, in this environment.
        """
        return open_run(self.root, kind, name, recipe, environment, identity)

    def runs(self) -> list[Run]:
        """Return the runs, the latest first. Records that cannot be read are left out with a warning."""
        folders = (self.root / "runs").glob("*/record.json")
        found = [run for path in folders if (run := read_run(self.root, path.parent))]
        return sorted(found, key=lambda run: (run.latest(), run.record.id), reverse=True)

    def run(self, name: str) -> Run:
        """Return the run with this id, or the "latest". Raises UsageError with the nearest id."""
        runs = self.runs()
        if not runs:
            raise UsageError(f"There are no runs in '{self.root}' yet.", "Make one: ismn run quickstart")
        if name == "latest":
            return runs[0]
        known = {run.record.id: run for run in runs}
        if name not in known:
            raise unknown_name("run", name, known)
        return known[name]

    def _read(self, path: Path, parse: Callable[[bytes], Stored]) -> Stored | None:
        """Return what ``parse`` makes of a file; None without one, or where it cannot: then it is moved aside."""
        try:
            return parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from None
        except ValidationError as error:
            move_aside(self.root, path, f"{error.error_count()} of its fields are not as they should be")
            return None

    def _ceiling_path(self, key: str) -> Path:
        return self.root / "ceilings" / f"{key}.json"

    def _findings_path(self, key: str) -> Path:
        return self.root / "findings" / f"{_checked(key)}.json"

    def _cell_path(self, key: str) -> Path:
        return self.root / "cells" / _checked(key)[:2] / f"{key}.json"


def _checked(key: str) -> str:
    """Return ``key``; a record that was tampered with must not lead out of the store."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"'{key}' is no key of the store.", "Keys are 64 hexadecimal digits.")
    return key


def _column_problem(result: CellResult) -> str:
    """Return what is wrong with the columns' lengths, if anything."""
    n = len(result.ids)
    answers = [result.clean] if result.attacked is None else [result.clean, result.attacked]
    columns = [len(column) for answer in answers for _, column in answer]
    columns += [len(result.labels)] + ([] if result.attacked is None else [len(result.failed)])
    optional = [len(result.failed), len(result.linf), len(result.l2)]
    if any(length != n for length in columns) or any(length not in (0, n) for length in optional):
        return f"its columns are not of one length ({n} samples)"
    return ""
