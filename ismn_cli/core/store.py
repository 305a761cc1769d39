"""The store: a folder or a prefix of object storage, of cells, adversarial examples and runs, whole at every moment.

Everything is written beside its place and moved into it, or put as one object, so that a kill leaves the old content
or none, and processes on many machines may write at once: of two that write the same, the last one's stands, whole.
What cannot be read is reported, moved aside and computed again. Nothing is locked but a run that is trained.

    runs/<id>/record.json    cells/<aa>/<key>.json    examples/<aa>/<key>/batch-00000.safetensors
    ceilings/<key>.json      findings/<key>.json      parts/<aa>/<key>/batches-00000-00008.json    corrupt/
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter

from ismn_cli.core.ceilings import Ceiling, ceiling_key
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.examples import Examples
from ismn_cli.core.findings import Finding
from ismn_cli.core.part_files import PartFiles
from ismn_cli.core.records import SCHEMA_VERSION, CellResult, Environment, RunKind
from ismn_cli.core.runs import RECORD, Run, open_run, parse_run
from ismn_cli.core.specs import Cell, Norm, Samples
from ismn_cli.core.storage import (
    expanded,
    home_folder,
    is_remote,
    move_aside,
    names_in,
    open_place,
    parsed,
    read_all,
    read_bytes,
    write_text,
    writing,
)

Stored = TypeVar("Stored")
_FINDINGS = TypeAdapter(tuple[Finding, ...])
_KEY = re.compile(r"[0-9a-f]{64}")
MARK = "store.json"
"""Tells a store in object storage, which has no folders, from an empty place."""
_AT_ONCE = 64
"""Results in memory as they are stored, a megabyte for 10,000 samples each."""


class Store:
    """A store at ``root``, which exists and can be written to; see `Store.open`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path | str | None = None) -> Store:
        """Return the store at ``root``, else at ISMN_HOME, else at ~/.ismn; make it if need be.

        A folder, or a URL as text: s3://bucket/prefix, gs://bucket/prefix. Raises UsageError where there is none and
        none can be made: a folder that cannot be written to, no such bucket, refused credentials, missing packages.
        """
        named = root or os.environ.get("ISMN_HOME") or home_folder()
        chosen = open_place(named) if isinstance(named, str) else named
        if is_remote(chosen):
            if read_bytes(chosen / MARK) is None:
                write_text(chosen / MARK, json.dumps({"schema_version": SCHEMA_VERSION}))
            return cls(chosen)
        chosen = expanded(chosen)
        with writing(chosen):
            chosen.mkdir(parents=True, exist_ok=True)
            if not os.access(chosen, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        return cls(chosen)

    def local(self) -> Store:
        """Return the store of what has to be files, trainings and scratch: this one, or at a URL the home folder's."""
        return Store(home_folder()) if is_remote(self.root) else self

    def cell(self, key: str) -> CellResult | None:
        """Return the result stored under ``key``; None where there is none that can be trusted."""
        return self._cell(key, read_bytes(self._cell_path(key)))

    def cells(self, keys: Iterable[str]) -> Iterator[tuple[str, CellResult | None]]:
        """Yield each key and what `cell` returns for it; from object storage some at a time are asked for."""
        left = iter(keys)
        while some := list(islice(left, _AT_ONCE)):
            for key, content in zip(some, read_all([self._cell_path(key) for key in some]), strict=True):
                yield key, self._cell(key, content)

    def _cell(self, key: str, content: bytes | None) -> CellResult | None:
        path = self._cell_path(key)
        result = parsed(self.root, path, content, CellResult.model_validate_json)
        if result is None:
            return None
        problem = result.column_problem()
        if result.cell.key() != key:
            problem = "it holds another cell"
        if problem:
            move_aside(self.root, path, problem)
        return None if problem else result

    def put_cell(self, result: CellResult) -> None:
        """Store ``result`` under its cell's key.

        Raises UsageError where it cannot be written, ValueError where its columns are not of one length.
        """
        problem = result.column_problem()
        if problem:
            raise ValueError(f"cell result: {problem}")
        # json, not pydantic, because the latter writes NaN as null
        write_text(self._cell_path(result.cell.key()), json.dumps(result.model_dump(mode="json")))

    def examples(self, key: str) -> Examples:
        """Return the adversarial examples under ``key`` (see `Cell.examples_key`), as yet perhaps none."""
        return Examples(self.root, self.root / "examples" / _checked(key)[:2] / key)

    def parts(self, key: str) -> PartFiles:
        """Return what shards of a matrix have found of the cell ``key``, as yet perhaps nothing."""
        return PartFiles(self.root, self.root / "parts" / _checked(key)[:2] / key, key)

    def has_parts(self) -> bool:
        """Whether any shard has ever left a part of a cell here."""
        return bool(names_in(self.root / "parts"))

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
        folders = [self.root / "runs" / name for name in names_in(self.root / "runs")]
        records = zip(folders, read_all(folder / RECORD for folder in folders), strict=True)
        found = [run for folder, content in records if (run := parse_run(self.root, folder, content))]
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
        return parsed(self.root, path, read_bytes(path), parse)

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
