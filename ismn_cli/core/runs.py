"""Runs: a folder each, with the record of what was asked, where it ran and what came of it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydantic import JsonValue, ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import Environment, RunKind, RunRecord
from ismn_cli.core.storage import move_aside, unreadable, write_text, writing

_LOG = logging.getLogger("ismn.store")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Run:
    """One run in its own ``folder``, free for checkpoints and weights; ``record`` is what it has recorded."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder, self.record = folder, record

    def update(self, **changes: Any) -> None:
        """Change fields of the record and store it in one piece.

        A status other than "running" sets ``finished`` to now unless given. Raises UsageError where the disk
        refuses.
        """
        if "status" in changes:
            changes.setdefault("finished", None if changes["status"] == "running" else timestamp())
        record = RunRecord.model_validate(self.record.model_dump() | changes)
        _write(self.folder, record)
        self.record = record

    def latest(self) -> str:
        """Return when something last happened, as text that sorts."""
        return max(self.record.started, self.record.finished or "")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this run. A killed process's lock is gone with it.

        Raises UsageError naming the process that holds it.
        """
        path = self.folder / "lock"
        with writing(path):
            stream = path.open("a+", encoding="utf-8")
        with stream:
            with writing(path):
                self._take(stream)
            self._sweep()
            yield

    def _take(self, stream: TextIO) -> None:
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise self._busy(stream.read().strip()) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()

    def _busy(self, pid: str) -> UsageError:
        who = f"process {pid}" if pid else "another process"
        hint = "Wait for it, or stop it: its work is kept. Another seed or limit makes another run."
        return UsageError(f"Run '{self.record.id}' is being worked on by {who}.", hint)

    def _sweep(self) -> None:
        """Remove what a killed process was writing: checkpoints are large."""
        # The record is written without the lock too, so its temporary file may be somebody's.
        for left in self.folder.glob(".*.tmp"):
            if not left.name.startswith(".record.json."):
                left.unlink(missing_ok=True)


def run_id_of(name: str, identity: str) -> str:
    """Return the id of the run called ``name`` with this identity."""
    return f"{name}-{identity[:8]}"


def open_run(
    root: Path,
    kind: RunKind,
    name: str,
    recipe: Mapping[str, JsonValue],
    environment: Environment,
    identity: str,
) -> Run:
    """Return the run of the store at ``root`` with this identity; see `Store.start_run`."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot name a run.", "Use letters, digits, '.', '_' and '-'.")
    run_id = run_id_of(name, identity)
    folder = root / "runs" / run_id
    run = read_run(root, folder, aside=True)
    if run is not None:
        if run.record.status != "done":
            run.update(status="running", recipe=dict(recipe), environment=environment, started=timestamp())
        return run
    record = RunRecord(
        id=run_id,
        kind=kind,
        name=name,
        status="running",
        recipe=dict(recipe),
        environment=environment,
        started=timestamp(),
    )
    _write(folder, record)
    return Run(folder, record)


def read_run(root: Path, folder: Path, aside: bool = False) -> Run | None:
    """Return the run in ``folder``; None, with a warning, where its record cannot be read.

    ``aside``: move such a record out of the way of a new one.
    """
    path = folder / "record.json"
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    except ValidationError as error:
        problem = f"{error.error_count()} of its fields are not as they should be"
    else:
        if record.id == folder.name:
            return Run(folder, record)
        problem = f"it is the record of '{record.id}'"
    if aside:
        move_aside(root, path, problem)
    else:
        _LOG.warning("'%s' is left out: %s.", path, problem)
    return None


def timestamp() -> str:
    """Return the time now, UTC, as text that sorts."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _write(folder: Path, record: RunRecord) -> None:
    # json, not pydantic, because the latter writes NaN as null
    write_text(folder / "record.json", json.dumps(record.model_dump(mode="json"), indent=1))
