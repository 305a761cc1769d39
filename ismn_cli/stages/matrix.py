"""A matrix of cells: defences x knowledge x attacks. What is stored is not computed again."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.environment import capture
from ismn_cli.core.findings import Audit, Verdict
from ismn_cli.core.parts import Span, shard_span
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult, RunKind
from ismn_cli.core.runs import Run
from ismn_cli.core.store import Store
from ismn_cli.core.tracking import Openers
from ismn_cli.stages.ceilings import ensure_ceilings
from ismn_cli.stages.costs import costs_of
from ismn_cli.stages.curves import tell_cells, tell_worst
from ismn_cli.stages.doctor import before_attack
from ismn_cli.stages.engines import CarryOut, locally
from ismn_cli.stages.gallery import keep_gallery
from ismn_cli.stages.ledger import Ledger
from ismn_cli.stages.plan import Matrix, plan_matrix
from ismn_cli.stages.record_audit import audit_records
from ismn_cli.stages.resolve import Resolved
from ismn_cli.stages.self_test import self_tests
from ismn_cli.stages.tasks import Task
from ismn_cli.stages.tracking import NO_TRACKERS, Tracking
from ismn_cli.stages.train import marking

REPORT = "report.csv"
TOLD_EVERY = 1.0
"""Seconds between two words about a batch that is under way."""
_LOG = logging.getLogger("ismn")


@dataclass(frozen=True)
class MatrixProgress:
    """Where a matrix stands: images done, of all that are to be computed, and the running score."""

    label: str
    done: int
    total: int
    score: dict[str, int]
    stage: str = "matrix"
    """In "ceilings", done and total are pairs of images."""
    share: float | None = None
    """Of the work, 0 to 1, where images do not all cost the same."""


@dataclass(frozen=True)
class Finished:
    """A matrix that was run: its cells in the order of the table, and how many were stored before."""

    run: Run
    results: tuple[CellResult, ...]
    systems: tuple[Resolved, ...]
    stored: int
    ceilings: tuple[Ceiling, ...]
    """Of the images, at each size of the attacks."""
    audit: Audit


OnProgress = Callable[[MatrixProgress], None]
OnCells = Callable[[Sequence[CellResult]], None]


def run_matrix(
    recipe: MatrixRecipe,
    store: Store,
    data_dir: Path | None,
    device: str,
    kind: RunKind,
    on_progress: OnProgress,
    prefer_base: str | None = None,
) -> Finished:
    """Compute every cell of ``recipe`` that is not stored yet, and write the run's report.csv.

    A run that was cut continues at the batch where it stopped. Raises UsageError: bad input, a full disk.
    """
    return run_plan(plan_matrix(recipe, store, data_dir, device, prefer_base), store, kind, on_progress)


def run_plan(
    matrix: Matrix,
    store: Store,
    kind: RunKind,
    on_progress: OnProgress,
    track: Openers = NO_TRACKERS,
    carry_out: CarryOut = locally,
    device: str | None = None,
) -> Finished:
    """Compute the cells of a checked matrix; see `run_matrix`. ``track`` is told of each.

    ``device`` is where ``carry_out`` works, unless it is the matrix's.
    """
    import torch

    environment = capture(device or str(matrix.device), torch.get_num_threads())
    recipe = matrix.recipe
    before_attack(matrix.own, matrix.images, store, matrix.device)
    run = store.start_run(kind, recipe.name, recipe.model_dump(mode="json"), environment, matrix.identity())
    with marking(run), Tracking(track, run) as tracking:
        _test_attacks(matrix, store, on_progress)
        found, stored = compute(matrix, store, on_progress, partial(tell_cells, tracking), carry_out)
        results = _in_table_order(matrix, found)
        tell_worst(tracking, results)
        ceilings = _ceilings(matrix, store, on_progress)
        audit = audit_records(store, run, results)
        _write_report(run, results, ceilings, audit, recipe.stand_in_for)
        origins = dict.fromkeys(f"{s.subject.name}: {s.origin}" for s in matrix.systems)
        costs, unmeasured = costs_of(matrix, results, store, run.record.costs)
        notes = (*origins, *matrix.left_out, *unmeasured, *keep_gallery(run, store, matrix, results))
        run.update(status="done", cells=tuple(r.cell.key() for r in results), costs=costs, notes=notes)
    return Finished(run, results, matrix.systems, stored, ceilings, audit)


def _test_attacks(matrix: Matrix, store: Store, on_progress: OnProgress) -> None:
    """Test each attack on victims that are known to fall, before any defence is scored with it."""
    cells = [cell for job in matrix.jobs() for _, cell in job.cells]
    for finding in self_tests(store, cells, lambda label: on_progress(MatrixProgress(label, 0, 1, {}, "self-test"))):
        if finding.verdict is Verdict.FAIL:
            _LOG.warning("%s fails its self-test: %s Its cells will be unreliable.", finding.subject, finding.says)


def compute(
    matrix: Matrix, store: Store, on_progress: OnProgress, on_cells: OnCells, carry_out: CarryOut = locally
) -> tuple[dict[str, CellResult], int]:
    """Return every cell's result by key, and how many of them were stored. ``on_cells`` hears of all."""
    ledger = ledger_of(matrix, store, Span(0, matrix.batches()))
    stored = len(ledger.found)
    on_cells(list(ledger.found.values()))
    _complete(matrix, store, ledger, on_progress, on_cells, carry_out)
    return ledger.found, stored


def compute_shard(matrix: Matrix, store: Store, shard: int, shards: int, on_progress: OnProgress) -> tuple[int, int]:
    """Compute every cell on shard ``shard`` of 1..``shards`` of the batches, and store the parts.

    What a run of the whole matrix finds of them, it does not compute. Returns how many cells there are, and how many
    of them were stored before. Raises UsageError as `run_plan` does.
    """
    before_attack(matrix.own, matrix.images, store, matrix.device)
    span = shard_span(matrix.batches(), shard, shards)
    if not span.indices():
        return 0, 0
    ledger = ledger_of(matrix, store, span)
    stored = len(ledger.found)
    _complete(matrix, store, ledger, on_progress, lambda cells: None, locally)
    return len(ledger.found), stored


def _complete(
    matrix: Matrix, store: Store, ledger: Ledger, on_progress: OnProgress, on_cells: OnCells, carry_out: CarryOut
) -> None:
    """Compute what ``ledger`` has not; ``on_cells`` hears of what is whole with it."""
    from ismn_cli.engine.counting import heard

    tasks = matrix.tasks(ledger.found)
    score = _Score(on_progress, tasks, len(matrix.images.ids[ledger.rows()]), matrix.recipe.batch_size)
    with heard(score.passed):
        for task, index, results in carry_out(matrix, store, tasks, ledger):
            score.add(task, results)
            if whole := ledger.add(index, results):
                on_cells(whole)


def ledger_of(matrix: Matrix, store: Store, span: Span) -> Ledger:
    """Return what is stored of the matrix on the batches of ``span``."""
    keys = dict.fromkeys(cell.key() for _, cell in matrix.cells())
    return Ledger(store, keys, span, matrix.batches(), matrix.recipe.batch_size)


class _Score:
    """Adds up what the batches of all cells report, of tasks on ``images`` images each.

    A batch may take hours: the passes that this process makes at it are told now and then, as a share of the work.
    Elsewhere, on a cluster, passes are not heard.
    """

    def __init__(self, on_progress: OnProgress, tasks: Sequence[Task], images: int, batch_size: int) -> None:
        self.on_progress, self.tasks, self.images, self.batch_size = on_progress, tasks, images, batch_size
        self.total, self.done = len(tasks) * images, 0
        self.work, self.worked, self.passes = images * sum(task.passes() for task in tasks), 0.0, 0
        self.counts: dict[str, Counter[str]] = {}
        self.told = time.monotonic()

    def add(self, task: Task, results: Sequence[CellResult]) -> None:
        """Tell what became of a batch; of several systems the last one's score is shown."""
        shown = results[-1]
        self._counts(task).update(map(str, shown.outcomes() or _right_or_wrong(shown)))
        self.done += len(shown.ids)
        self.worked += len(shown.ids) * task.passes()
        self.passes = 0
        self._tell(task, self.worked / self.work if self.done < self.total else 1.0)

    def passed(self, passes: int) -> None:
        """Take in ``passes`` of the batch under way: tasks are done in their order, one after the other."""
        self.passes += passes
        if time.monotonic() - self.told < TOLD_EVERY:
            return
        task = self.tasks[min(self.done // self.images, len(self.tasks) - 1)]
        batch = min(self.batch_size, self.images) * task.passes()
        # What goes wrong in telling is not the attack's doing, and the end of the batch will tell.
        with suppress(Exception):
            self._tell(task, min(self.worked + min(self.passes, batch), self.work) / self.work)

    def _counts(self, task: Task) -> Counter[str]:
        return self.counts.setdefault(task.label(), Counter())

    def _tell(self, task: Task, share: float) -> None:
        self.told = time.monotonic()
        self.on_progress(MatrixProgress(task.label(), self.done, self.total, dict(self._counts(task)), share=share))


def _right_or_wrong(result: CellResult) -> list[str]:
    columns = zip(result.clean.predicted, result.clean.rejected, result.labels, strict=True)
    return ["right" if predicted == label and not no else "wrong" for predicted, no, label in columns]


def _in_table_order(matrix: Matrix, found: dict[str, CellResult]) -> tuple[CellResult, ...]:
    """Return the results defence by defence, the clean cell first."""
    jobs = matrix.jobs()
    keys = []
    for system in matrix.systems:
        keys.append(matrix.clean_cell(system).key())
        keys += [cell.key() for job in jobs for owner, cell in job.cells if owner is system]
    return tuple(found[key] for key in keys)


def _ceilings(matrix: Matrix, store: Store, on_progress: OnProgress) -> tuple[Ceiling, ...]:
    """Return what the images allow at each size of the attacks."""
    sizes = dict.fromkeys(attack.threat.eps for attacks in matrix.attacks.values() for attack in attacks)

    def on_pairs(done: int, total: int) -> None:
        on_progress(MatrixProgress("comparing images", done, total, {}, stage="ceilings"))

    return tuple(ensure_ceilings(store, matrix.images, matrix.recipe.attack.norm, list(sizes), on_pairs).values())


def _write_report(
    run: Run, results: Sequence[CellResult], ceilings: Sequence[Ceiling], audit: Audit, stand_in: str | None
) -> None:
    from ismn_cli.core.storage import write_text
    from ismn_cli.reporting.comparison_table import comparison_report
    from ismn_cli.reporting.render import render_text

    # Without what the clock says: a run that was cut and continued writes the same bytes.
    report = comparison_report(results, ceilings=ceilings, unreliable=audit.unreliable(), stand_in_for=stand_in)
    write_text(run.folder / REPORT, render_text(report.without_clock(), "csv"))
