"""A matrix of cells: defences x knowledge x attacks. What is stored is not computed again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import ATTACKS, DATASETS, find
from ismn_cli.core.environment import capture
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult, RunKind
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.stages.cells import Bench, OnBatch
from ismn_cli.stages.jobs import Job
from ismn_cli.stages.resolve import Resolved, resolve
from ismn_cli.stages.train import marking
from ismn_cli.stages.weights import on_device

if TYPE_CHECKING:
    import torch

    from ismn_cli.data.image_set import ImageSet

REPORT = "report.csv"
AttacksAt = dict[Knowledge, tuple[AttackSpec, ...]]
"""The attacks of each knowledge level."""


@dataclass(frozen=True)
class MatrixProgress:
    """Where a matrix stands: images done, of all that are to be computed, and the running score."""

    label: str
    done: int
    total: int
    score: dict[str, int]


@dataclass(frozen=True)
class Finished:
    """A matrix that was run: its cells in the order of the table, and how many were stored before."""

    run: Run
    results: tuple[CellResult, ...]
    systems: tuple[Resolved, ...]
    stored: int


@dataclass(frozen=True)
class Matrix:
    """A recipe with everything found and checked."""

    recipe: MatrixRecipe
    images: ImageSet
    systems: tuple[Resolved, ...]
    attacks: AttacksAt
    sources: tuple[Resolved, ...]
    """The attacker's own systems, for transfer."""
    device: torch.device
    left_out: tuple[str, ...] = ()
    """Why each optional system that has no weights is missing."""

    def clean_cell(self, system: Resolved) -> Cell:
        """Return the cell of ``system`` without attack."""
        return self._cell(system, Knowledge.CLEAN, None)

    def jobs(self) -> list[Job]:
        """Return what is to be crafted: each job's cells share their examples."""
        jobs = []
        for knowledge, attacks in self.attacks.items():
            for attack in attacks:
                groups: dict[str, list[tuple[Resolved, Cell]]] = {}
                for system in self.systems:
                    cell = self._cell(system, knowledge, attack)
                    groups.setdefault(cell.examples_key(), []).append((system, cell))
                jobs += [self._job(knowledge, attack, group) for group in groups.values()]
        return jobs

    def identity(self) -> str:
        """Return the hash of what decides the results."""
        content = self.recipe.model_dump(mode="json", exclude={"name", "summary", "weights"})
        content["systems"] = [[s.base.weights, s.subject.key()] for s in (*self.systems, *self.sources)]
        content["samples"] = self.images.samples().key()
        content["attacks"] = [attack.key() for attacks in self.attacks.values() for attack in attacks]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _job(self, knowledge: Knowledge, attack: AttackSpec, cells: Sequence[tuple[Resolved, Cell]]) -> Job:
        system, cell = cells[0]
        before = self._before(knowledge, attack)
        previous = self._cell(system, knowledge, before[-1]) if before else None
        sources = self.sources if cell.sources else ()
        survivors = self.recipe.survivors and not _shared(knowledge, attack)
        return Job(cell.attack or attack, knowledge, tuple(cells), sources, survivors, previous)

    def _before(self, knowledge: Knowledge, attack: AttackSpec) -> tuple[AttackSpec, ...]:
        """Return the attacks whose broken samples ``attack`` leaves out, in the order in which they are run."""
        if not self.recipe.survivors or _shared(knowledge, attack):
            return ()
        chain = [other for other in self.attacks[knowledge] if not _shared(knowledge, other)]
        chain.sort(key=lambda other: other.threat.eps)  # stable: at one eps in the recipe's order
        return tuple(chain[: chain.index(attack)])

    def _cell(self, system: Resolved, knowledge: Knowledge, attack: AttackSpec | None) -> Cell:
        randomised = system.pipeline.defence.randomised
        averaged = randomised and knowledge in (Knowledge.WHITE, Knowledge.ADAPTIVE)
        transferred = attack is not None and _is_transferred(knowledge, attack)
        return Cell(
            classifier=system.base,
            defence=system.subject,
            samples=self.images.samples(),
            knowledge=knowledge,
            attack=attack.model_copy(update={"eot": self.recipe.attack.eot}) if attack and averaged else attack,
            seed=self.recipe.seed,
            batch_size=self.recipe.batch_size,
            sources=tuple(source.subject for source in self.sources) if transferred else (),
            draws=self.recipe.draws if randomised else 1,
            after=self._before(knowledge, attack) if attack else (),
        )


def _shared(knowledge: Knowledge, attack: AttackSpec) -> bool:
    """Whether all defences share the examples: gray-box ones, and those transferred from other systems."""
    return knowledge is Knowledge.GRAY or _is_transferred(knowledge, attack)


def _is_transferred(knowledge: Knowledge, attack: AttackSpec) -> bool:
    """Whether the examples are made on the attacker's own systems: a black box gives no gradient."""
    return knowledge is Knowledge.BLACK and ATTACKS[attack.method].gradient


OnProgress = Callable[[MatrixProgress], None]


def plan_matrix(
    recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str, prefer_base: str | None = None
) -> Matrix:
    """Find and check all that a matrix needs. Raises UsageError before any work is done."""
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device

    attacks = resolve_attacks(recipe)
    chosen = pick_device(device)
    dataset = find(DATASETS, "data set", recipe.dataset.name)
    images = load_dataset(dataset.name, "test", data_dir, recipe.dataset.limit, recipe.seed)

    def found(name: str, weights: str) -> Resolved:
        system = resolve(name, weights, store, dataset, prefer_base)
        on_device(system.pipeline, chosen)
        return system

    systems, left_out = _available(recipe, found)
    sources = tuple(found(*_source(name, recipe.weights)) for name in _transferred(recipe))
    return Matrix(recipe, images, systems, attacks, sources, chosen, left_out)


def _available(
    recipe: MatrixRecipe, found: Callable[[str, str], Resolved]
) -> tuple[tuple[Resolved, ...], tuple[str, ...]]:
    """Return the recipe's systems, and why each optional one that is missing is left out."""
    systems, left_out = [], []
    for name in dict.fromkeys(recipe.defence):
        try:
            systems.append(found(name, recipe.weights))
        except UsageError as error:
            if name not in recipe.optional:
                raise
            left_out.append(f"{name} is left out. {error.message} {error.hint}")
    if not systems:
        raise UsageError("None of the defences has weights.", left_out[0])
    return tuple(systems), tuple(left_out)


def _source(name: str, weights: str) -> tuple[str, str]:
    """Read "name" or "name@RUN": a system, and where its weights come from."""
    system, _, run = name.partition("@")
    return system, run or weights


def _transferred(recipe: MatrixRecipe) -> tuple[str, ...]:
    """Return the systems that examples are transferred from; none where no attack needs any."""
    methods = recipe.attack.methods(Knowledge.BLACK) if Knowledge.BLACK in recipe.knowledge else ()
    return tuple(dict.fromkeys(recipe.transfer)) if any(ATTACKS[m].gradient for m in methods) else ()


def resolve_attacks(recipe: MatrixRecipe) -> AttacksAt:
    """Return each knowledge level's attacks at every size with all parameters pinned. Raises UsageError."""
    from ismn_cli.attacks.adapter import make_attack
    from ismn_cli.attacks.params import resolve_params

    grid = recipe.attack
    levels = [level for level in dict.fromkeys(recipe.knowledge) if level is not Knowledge.CLEAN]
    _check_used(recipe, levels)
    threats = [ThreatModel(norm=grid.norm, eps=eps) for eps in dict.fromkeys(grid.eps)]
    attacks: AttacksAt = {}
    for level in levels:
        attacks[level] = tuple(
            resolve_params(method, threat, grid.params.get(method, {}))
            for method in grid.methods(level)
            for threat in threats
        )
        for spec in attacks[level]:
            make_attack(spec, DATASETS[recipe.dataset.name].classes)
    return attacks


def _check_used(recipe: MatrixRecipe, levels: Sequence[Knowledge]) -> None:
    """Raise UsageError for what is given and would change nothing."""
    grid = recipe.attack
    methods = [method for level in levels for method in grid.methods(level)]
    idle = sorted(set(grid.params) - set(methods))
    if idle:
        raise UsageError(
            f"Parameters are given for '{idle[0]}', which is not among the attacks.",
            f"The attacks are: {', '.join(dict.fromkeys(methods))}.",
        )
    idle_levels = [level for level in grid.method_at if level not in levels]
    if idle_levels:
        raise UsageError(
            f"Attacks are given for level {idle_levels[0]}, which is not among the knowledge levels.",
            f"The levels are: {', '.join(recipe.knowledge)}.",
        )


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


def run_plan(matrix: Matrix, store: Store, kind: RunKind, on_progress: OnProgress) -> Finished:
    """Compute the cells of a checked matrix; see `run_matrix`."""
    import torch

    environment = capture(str(matrix.device), torch.get_num_threads())
    recipe = matrix.recipe
    run = store.start_run(kind, recipe.name, recipe.model_dump(mode="json"), environment, matrix.identity())
    with marking(run):
        found, stored = _compute(matrix, store, on_progress)
        results = _in_table_order(matrix, found)
        _write_report(run, results)
        origins = dict.fromkeys(f"{s.subject.name}: {s.origin}" for s in matrix.systems)
        notes = (*origins, *matrix.left_out)
        run.update(status="done", cells=tuple(r.cell.key() for r in results), notes=notes)
    return Finished(run, results, matrix.systems, stored)


def _compute(matrix: Matrix, store: Store, on_progress: OnProgress) -> tuple[dict[str, CellResult], int]:
    """Return every cell's result by key, and how many of them were stored."""
    jobs = matrix.jobs()
    cells = [matrix.clean_cell(system) for system in matrix.systems]
    cells += [cell for job in jobs for _, cell in job.cells]
    found = {key: result for key in (c.key() for c in cells) if (result := store.cell(key))}
    stored = len(found)
    clean = [s for s in matrix.systems if matrix.clean_cell(s).key() not in found]
    open_jobs = [job for job in jobs if any(cell.key() not in found for _, cell in job.cells)]
    open_jobs.sort(key=lambda job: (list(matrix.attacks).index(job.knowledge), len(job.cells[0][1].after)))
    score = _Score(on_progress, (len(clean) + len(open_jobs)) * len(matrix.images))
    bench = Bench(store, matrix.images, matrix.device, matrix.recipe.batch_size, matrix.recipe.seed)
    for system in clean:
        result = bench.clean(matrix.clean_cell(system), system.pipeline, score.of(f"{system.subject.name}, clean"))
        found[result.cell.key()] = result
    before = {s.subject.name: found[matrix.clean_cell(s).key()] for s in matrix.systems}
    for job in open_jobs:
        missing = job.without(found)
        previous = found[job.previous.key()] if job.previous else None
        for result in bench.attack(missing, before, previous, score.of(missing.label())):
            found[result.cell.key()] = result
    return found, stored


class _Score:
    """Adds up what the batches of all cells report."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.on_progress, self.total, self.done = on_progress, total, 0

    def of(self, label: str) -> OnBatch:
        """Return the callback of one cell."""
        counts: Counter[str] = Counter()

        def on_batch(images: int, outcomes: Sequence[str]) -> None:
            self.done += images
            counts.update(outcomes)
            self.on_progress(MatrixProgress(label, self.done, self.total, dict(counts)))

        return on_batch


def _in_table_order(matrix: Matrix, found: dict[str, CellResult]) -> tuple[CellResult, ...]:
    """Return the results defence by defence, the clean cell first."""
    jobs = matrix.jobs()
    keys = []
    for system in matrix.systems:
        keys.append(matrix.clean_cell(system).key())
        keys += [cell.key() for job in jobs for owner, cell in job.cells if owner is system]
    return tuple(found[key] for key in keys)


def _write_report(run: Run, results: Sequence[CellResult]) -> None:
    from ismn_cli.core.storage import write_text
    from ismn_cli.reporting.comparison_table import comparison_report
    from ismn_cli.reporting.render import render_text

    # Without what the clock says: a run that was cut and continued writes the same bytes.
    write_text(run.folder / REPORT, render_text(comparison_report(results).without_clock(), "csv"))
