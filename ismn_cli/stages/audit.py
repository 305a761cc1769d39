"""The audit of a run: its stored cells first, then its attacks and systems, probed on some of its images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.audit.book import System, open_book
from ismn_cli.core.environment import ismn_version
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.findings import Audit, Finding, write_audit
from ismn_cli.core.recipe_files import validate
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import AttackSpec, Knowledge
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import attack_of
from ismn_cli.stages.matrix import MatrixProgress, OnProgress
from ismn_cli.stages.plan import Matrix, plan_matrix
from ismn_cli.stages.record_audit import answered, concerns, not_run, stored_findings, stored_results, strongest

if TYPE_CHECKING:
    from torch import Tensor

    from ismn_cli.stages.resolve import Resolved

IMAGES = 100
"""Images that systems and attacks are probed on, unless told otherwise."""
FEWER = 5
"""Of these images one in so many for attacks on systems that draw at random."""
NOISE_DRAWS, SQUARE_QUERIES, PLANTED = 200, 300, 3
"""Of the dearest checks (GM07, GM05, BT01), so that the released systems take minutes. Their findings state them."""
@dataclass(frozen=True)
class Probe:
    """A few checks that run something, kept in the store under ``key`` once they are done."""

    label: str
    key: str
    run: Callable[[], Iterator[Finding]]


def audit_run(
    run: Run,
    store: Store,
    data_dir: Path | None,
    device: str,
    defences: Sequence[str] | None,
    images: int,
    on_progress: OnProgress,
) -> Audit:
    """Audit a run: its stored cells and its attacks, and its systems probed on ``images`` of its images (0: none).

    ``defences``: only these; None: all. What was probed before is not probed again. An audit of all defences is kept
    beside the run, unless it would replace one that says more. Raises UsageError: a run without cells, unknown
    names, weights that are no longer those of the run.
    """
    results = stored_results(store, run)
    systems = [system for system in open_book(results).systems if _wanted(system, defences, results)]
    matrix = _matrix_of(run, store, data_dir, device) if images else None
    probes = [probe for system in systems for probe in _probes(system, matrix, images)] if matrix else []
    findings = [f for f in stored_findings(store, results) if f.code == "AT07" or concerns(f, systems)]
    findings += _carry_out(probes, store, findings, on_progress)
    findings = answered([*findings, *not_run(findings, systems, probed=bool(images))])
    audit = Audit(run=run.record.id, cells=tuple(r.cell.key() for r in results), findings=tuple(findings))
    if defences is None and images:
        write_audit(run.folder, audit)
    return audit


def _matrix_of(run: Run, store: Store, data_dir: Path | None, device: str) -> Matrix:
    recipe = validate(dict(run.record.recipe))
    if not isinstance(recipe, MatrixRecipe):
        raise UsageError(f"Run {run.record.id} is no matrix.", "See the runs: ismn list runs")
    return plan_matrix(recipe, store, data_dir, device)


def _wanted(system: System, defences: Sequence[str] | None, results: Sequence[CellResult]) -> bool:
    names = {result.cell.defence.name for result in results}
    for name in defences or ():
        if name not in names:
            raise unknown_name("defence of this run", name, names)
    return defences is None or system.subject.name in defences


def _probes(system: System, matrix: Matrix, images: int) -> Iterator[Probe]:
    """Yield what is to be run on one system: the checks of a model, then those of its strongest stored attack."""
    resolved = next((s for s in matrix.systems if s.subject == system.subject and s.base == system.classifier), None)
    if resolved is None:
        raise UsageError(
            f"The weights of {system.label} are no longer those of the run.",
            "Repeat the run, or audit a newer one: ismn list runs",
        )
    probed = _Probed(system, resolved, matrix, images)
    yield Probe(f"{system.label}, the model", probed.key("model"), probed.model)
    chosen = strongest(system)
    if chosen is not None:
        level, spec = chosen
        key = probed.key("attack", level=level.value, attack=spec.key(), seed=matrix.recipe.seed)
        yield Probe(f"{system.label}, {level.value} {spec.label()}", key, partial(probed.attack, level, spec))


@dataclass(frozen=True)
class _Probed:
    """A system of the run, and the images that it is probed on."""

    system: System
    resolved: Resolved
    matrix: Matrix
    images: int

    def key(self, kind: str, **more: str | int) -> str:
        """Return the hash of what decides the findings of a probe."""
        content = {
            "ismn": ismn_version(),
            "probe": kind,
            "system": self.system.subject.key(),
            "classifier": self.system.classifier.key(),
            "samples": self.system.images,
            "images": self.images,
            "budget": [NOISE_DRAWS, SQUARE_QUERIES, PLANTED],
            **more,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def model(self) -> Iterator[Finding]:
        """Yield the checks of a model, asked of the whole system."""
        from ismn_cli.audit.model_checks import system_findings

        yield from system_findings(self.resolved.pipeline, *self._images(), self.system.label)

    def attack(self, level: Knowledge, spec: AttackSpec) -> Iterator[Finding]:
        """Yield the checks of an attack: through what it was built on, the first of several routes."""
        from ismn_cli.audit.attack_checks import Budget, attack_findings
        from ismn_cli.threats.views import views

        budget = Budget(noise_draws=NOISE_DRAWS, square_queries=SQUARE_QUERIES, binarization_samples=PLANTED)
        view = next(iter(views(self.resolved.pipeline, level, eot=spec.eot).values()))
        subject = f"{self.system.label}, {level.value} {spec.label()}"
        cells = tuple(r.cell.key() for r in self.system.at(level) if attack_of(r.cell).method == spec.method)
        classes, seed = len(self.matrix.images.classes), self.matrix.recipe.seed
        randomised = self.resolved.pipeline.defence.randomised
        judge = self._broken if level is Knowledge.ADAPTIVE else None
        yield from attack_findings(
            view, spec, *self._images(randomised), classes, subject, seed, budget=budget, judge=judge, cells=cells
        )

    def _broken(self, x: Tensor, y: Tensor) -> Tensor:
        """Return bool [n]: the whole system gives x [n, C, H, W] a wrong answer, and does not refuse."""
        from ismn_cli.stages.jobs import verdict
        from ismn_cli.threats.worst_case import BROKEN

        return verdict(self.resolved.pipeline, self.matrix.recipe.seed, 1)(x, y) == BROKEN

    def _images(self, few: bool = False) -> tuple[Tensor, Tensor]:
        """Return the images; ``few`` for systems whose every look is a mean over draws, and dear."""
        x, y = next(iter(self.matrix.images.batches(-(-self.images // FEWER) if few else self.images)))
        return x.to(self.matrix.device), y.to(self.matrix.device)


def _carry_out(
    probes: Sequence[Probe], store: Store, before: Sequence[Finding], on_progress: OnProgress
) -> list[Finding]:
    found: list[Finding] = []
    counts = Counter(finding.verdict.value for finding in before)
    for done, probe in enumerate(probes):
        on_progress(MatrixProgress(probe.label, done, len(probes), dict(counts)))
        mine = store.findings(probe.key)
        if mine is None:
            mine = tuple(probe.run())
            store.put_findings(probe.key, mine)
        counts.update(finding.verdict.value for finding in mine)
        found += mine
    on_progress(MatrixProgress("audit", len(probes), len(probes), dict(counts)))
    return found
