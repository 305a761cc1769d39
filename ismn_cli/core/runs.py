"""Runs: a folder each, with the record of what was asked, where it ran and what came of it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.leases import Holder, TakenError, lease
from ismn_cli.core.records import Environment, RunKind, RunRecord
from ismn_cli.core.storage import home_folder, is_remote, misshapen, move_aside, read_bytes, write_text, writing

_LOG = logging.getLogger("ismn.store")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RECORD = "record.json"


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
        """Keep other processes out of this run, on every machine that sees its folder; see `ismn_cli.core.leases`.

        A killed process's lock is free at once on its own machine. Raises UsageError naming who holds it.
        """
        check_local(self.folder)
        with ExitStack() as held:
            with writing(self.folder / "lock"):
                try:
                    held.enter_context(lease(self.folder / "lock"))
                except TakenError as taken:
                    raise self._busy(taken.holder) from None
            self._sweep()
            yield

    def local_folder(self) -> Path:
        """Return a folder for what has to be files: the run's own, else one for it in the home folder."""
        return home_folder() / "runs" / self.folder.name if is_remote(self.folder) else self.folder

    def _busy(self, holder: Holder | None) -> UsageError:
        who = f"process {holder.pid}" if holder else "another process"
        if holder and not holder.here:
            who += f" on {holder.host}"
        hint = "Wait for it, or stop it: its work is kept. Another seed or limit makes another run."
        return UsageError(f"Run '{self.record.id}' is being worked on by {who}.", hint)

    def _sweep(self) -> None:
        """Remove what a killed process was writing: checkpoints are large."""
        # The record is written without the lock too, so its temporary file may be somebody's.
        for left in self.folder.glob(".*.tmp"):
            if not left.name.startswith(".record.json."):
                left.unlink(missing_ok=True)


def check_local(place: Path) -> None:
    """Raise UsageError for a place in object storage, where a training's checkpoints and lock cannot be."""
    if is_remote(place):
        raise UsageError(
            f"A training needs a folder for its checkpoints and its lock, and '{place}' is none.",
            "Train into a folder: ismn train --store DIR. A matrix whose store is a URL takes its weights from the "
            f"trainings in '{home_folder()}' (ISMN_HOME where that is a folder, else ~/.ismn).",
        )


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
    if kind == "train":
        check_local(root)
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
    return parse_run(root, folder, read_bytes(folder / RECORD), aside)


def parse_run(root: Path, folder: Path, content: bytes | None, aside: bool = False) -> Run | None:
    """Return the run whose record is ``content``; see `read_run`."""
    if content is None:
        return None
    path = folder / RECORD
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        problem = misshapen(error)
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
    write_text(folder / RECORD, json.dumps(record.model_dump(mode="json"), indent=1))
