"""Published figures put to the test: every reading a matrix of its own, its cells shared with all other runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ismn_cli.core.claim_verdicts import Comparison, Evidence, Trial, compare, trials_of
from ismn_cli.core.claims import AttackReading, Claims, Reading
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import AttackGrid, DataChoice, MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge, Norm
from ismn_cli.core.store import Store
from ismn_cli.stages.ceilings import ensure_ceilings
from ismn_cli.stages.matrix import MatrixProgress, OnProgress, run_plan
from ismn_cli.stages.plan import Matrix, plan_matrix, resolve_attacks
from ismn_cli.stages.resolve import Resolved

UNDEFENDED = "none"
BATCH = 100
"""That of the recipe table3-cifar10: examples that it has made are not made again."""
Place = tuple[str, str, float, str]
"""Reading, attack, level and system."""


@dataclass(frozen=True)
class Setting:
    """On what the claims are tested: images, weights, and the seed of all that is random."""

    dataset: DataChoice
    weights: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """Attacks of one reading that fit into one matrix, at some of the claimed levels."""

    reading: Reading
    attacks: tuple[AttackReading, ...]
    levels: tuple[float, ...]
    recipe: MatrixRecipe


@dataclass(frozen=True)
class ClaimsPlan:
    """Claims with everything found and checked that their test needs."""

    claims: Claims
    readings: tuple[Reading, ...]
    parts: tuple[tuple[Part, Matrix], ...]

    @property
    def systems(self) -> tuple[Resolved, ...]:
        """The systems that are tested, the same in every matrix."""
        return self.parts[0][1].systems

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why each claimed system that has no weights is missing."""
        return self.parts[0][1].left_out


def untested(claims: Claims, readings: Sequence[Reading]) -> list[Comparison]:
    """Return the claims of a file that says of itself that nothing of it can be tested."""
    return [compare(claims, trial, Evidence(why=claims.not_tested)) for trial in trials_of(claims, readings)]


def plan_claims(
    claims: Claims, readings: Sequence[Reading], setting: Setting, store: Store, data_dir: Path | None, device: str
) -> ClaimsPlan:
    """Find and check all that the test needs. Raises UsageError before any work is done."""
    parts = [part for reading in readings for part in _parts(claims, reading, setting)]
    if not parts:
        names = ", ".join(reading.name for reading in readings)
        raise UsageError(f"{claims.name} names attacks that '{names}' does not have.", "Choose another --reading.")
    first = plan_matrix(parts[0].recipe, store, data_dir, device)
    matrices = [first]
    for part in parts[1:]:
        if claims.knowledge is Knowledge.BLACK:  # what examples are transferred from depends on the attacks
            matrices.append(plan_matrix(part.recipe, store, data_dir, device))
        else:
            attacks = resolve_attacks(part.recipe, len(first.images.classes))
            matrices.append(replace(first, recipe=part.recipe, attacks=attacks))
    return ClaimsPlan(claims, tuple(readings), tuple(zip(parts, matrices, strict=True)))


def run_claims(plan: ClaimsPlan, store: Store, on_progress: OnProgress) -> list[Comparison]:
    """Compute what is not stored yet, and return every claim under every reading with its verdict.

    ``on_progress`` sees all matrices as one. A run that was cut continues at the batch where it stopped. Raises
    UsageError: a full disk, a run that another process works on.
    """
    ceilings = _ceilings(plan, store, on_progress)
    overall = _Overall(on_progress, _open_images(plan, store))
    found: dict[Place, CellResult] = {}
    undefended: dict[str, CellResult] = {}
    unreliable: set[str] = set()
    for part, matrix in plan.parts:
        finished = run_plan(matrix, store, "run", overall.of(part.reading.name))
        results = finished.results
        unreliable |= finished.audit.unreliable().keys()
        found |= _placed(part, results)
        clean = [r for r in results if r.cell.attack is None and r.cell.defence.name == UNDEFENDED]
        undefended |= {r.cell.classifier.key(): r for r in clean}

    def evidence(trial: Trial) -> Evidence:
        level, system = trial.claim.level, trial.claim.system
        result = found.get((trial.reading.name, trial.attack.label, level, system))
        if result is None:
            return Evidence(why=_missing(plan, system))
        ceiling = ceilings.get((trial.reading.norm, trial.reading.eps_at(level)))
        beside = undefended.get(result.cell.classifier.key())
        return Evidence(result, beside, ceiling, unreliable=result.cell.key() in unreliable)

    return [compare(plan.claims, trial, evidence(trial)) for trial in trials_of(plan.claims, plan.readings)]


def _parts(claims: Claims, reading: Reading, setting: Setting) -> Iterator[Part]:
    """Yield the matrices of one reading: a method has one set of parameters in each."""
    wanted = list(claims.each())
    attacks = [a for a in reading.attacks if any(claim.attack in (None, a.label) for claim in wanted)]
    for group in _rounds(attacks):
        labels = {None, *(attack.label for attack in group)}
        by_params: dict[str, list[float]] = {}
        for level in dict.fromkeys(claim.level for claim in wanted if claim.attack in labels):
            by_params.setdefault(json.dumps([attack.params_at(level) for attack in group]), []).append(level)
        for alike in by_params.values():
            yield Part(reading, group, tuple(alike), _recipe(claims, reading, group, alike, setting))


def _rounds(attacks: Sequence[AttackReading]) -> Iterator[tuple[AttackReading, ...]]:
    """Yield ``attacks`` in groups in which no method comes twice."""
    left = list(attacks)
    while left:
        group = list({attack.method: attack for attack in reversed(left)}.values())[::-1]
        yield tuple(group)
        left = [attack for attack in left if attack not in group]


def _recipe(
    claims: Claims, reading: Reading, attacks: Sequence[AttackReading], levels: Sequence[float], setting: Setting
) -> MatrixRecipe:
    systems = tuple(dict.fromkeys((UNDEFENDED, *(row.system for row in claims.claims))))
    return MatrixRecipe(
        name=f"{claims.name}-{reading.name}",
        summary=f"{claims.cite}, read as {reading.means}",
        dataset=setting.dataset,
        defence=systems,
        optional=systems,
        knowledge=(claims.knowledge,),
        attack=AttackGrid(
            method=tuple(attack.method for attack in attacks),
            eps=tuple(dict.fromkeys(reading.eps_at(level) for level in levels)),
            norm=reading.norm,
            params={attack.method: params for attack in attacks if (params := attack.params_at(levels[0]))},
        ),
        weights=setting.weights,
        seed=setting.seed,
        batch_size=BATCH,
    )


def _placed(part: Part, results: Sequence[CellResult]) -> dict[Place, CellResult]:
    """Return the attacked cells of one matrix by what they stand for."""
    places = [
        (attack, level, (attack.method, part.reading.eps_at(level))) for attack in part.attacks for level in part.levels
    ]
    return {
        (part.reading.name, attack.label, level, result.cell.defence.name): result
        for result in results
        for attack, level, threat in places
        if result.cell.attack and (result.cell.attack.method, result.cell.attack.threat.eps) == threat
    }


def _missing(plan: ClaimsPlan, system: str) -> str:
    reasons = [reason for reason in plan.left_out if reason.startswith(f"{system} ")]
    return reasons[0] if reasons else f"{system} was not run"


def _ceilings(plan: ClaimsPlan, store: Store, on_progress: OnProgress) -> dict[tuple[Norm, float], float]:
    """Return the ceiling of the images by norm and eps: all sizes at once, so that no matrix compares them again."""
    sizes: dict[Norm, list[float]] = {}
    for part, _ in plan.parts:
        sizes.setdefault(part.reading.norm, []).extend(part.recipe.attack.eps)

    def on_pairs(done: int, total: int) -> None:
        on_progress(MatrixProgress("ceilings", done, total, {}, stage="ceilings"))

    images = plan.parts[0][1].images
    found = {norm: ensure_ceilings(store, images, norm, eps_list, on_pairs) for norm, eps_list in sizes.items()}
    return {(norm, eps): top.value for norm, tops in found.items() for eps, top in tops.items()}


def _open_images(plan: ClaimsPlan, store: Store) -> int:
    """Return how many images are to be computed over all matrices; examples that they share count once."""
    places: dict[str, str] = {}
    for _, matrix in plan.parts:
        places |= {key: key for system in matrix.systems for key in (matrix.clean_cell(system).key(),)}
        for job in matrix.jobs():
            places |= {cell.key(): cell.examples_key() for _, cell in job.cells}
    missing = {examples for key, examples in places.items() if store.cell(key) is None}
    return len(missing) * len(plan.parts[0][1].images)


class _Overall:
    """Shows the progress of several matrices as that of one."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.on_progress, self.total, self.done = on_progress, total, 0

    def of(self, reading: str) -> OnProgress:
        """Return the callback of one matrix."""
        before = self.done

        def on_progress(progress: MatrixProgress) -> None:
            if progress.stage != "matrix":
                self.on_progress(progress)
                return
            self.done = before + progress.done
            self.on_progress(MatrixProgress(f"{reading}: {progress.label}", self.done, self.total, progress.score))

        return on_progress
