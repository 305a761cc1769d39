"""The plan of a matrix: every system, attack and image found and checked before any work is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import ATTACKS
from ismn_cli.core.effort import price
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Search, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.cells import Bench, FindExamples
from ismn_cli.stages.jobs import Job
from ismn_cli.stages.own_base import check_gradients, on_own_base
from ismn_cli.stages.resolve import Resolved, resolve
from ismn_cli.stages.steps import NO_STEPS, Steps
from ismn_cli.stages.tasks import Task
from ismn_cli.stages.user_defences import setup_of, split_run
from ismn_cli.stages.weights import on_device

if TYPE_CHECKING:
    import torch

    from ismn_cli.data.image_set import ImageSet

AttacksAt = dict[Knowledge, tuple[AttackSpec, ...]]
"""The attacks of each knowledge level."""


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
    own: Base | None = None
    """The classifier that all systems stand on, where the user has named one."""

    def clean_cell(self, system: Resolved) -> Cell:
        """Return the cell of ``system`` without attack."""
        return self._cell(system, Knowledge.CLEAN, None)

    def jobs(self) -> list[Job]:
        """Return what is to be crafted: each job's cells share their examples."""
        return list(self._jobs)

    @cached_property
    def _jobs(self) -> tuple[Job, ...]:
        jobs: list[Job] = []
        for knowledge, attacks in self.attacks.items():
            for attack in attacks:
                groups: dict[str, list[tuple[Resolved, Cell]]] = {}
                for system in self.systems:
                    cell = self._cell(system, knowledge, attack)
                    groups.setdefault(cell.examples_key(), []).append((system, cell))
                jobs += [self._job(knowledge, attack, group) for group in groups.values()]
        return tuple(jobs)

    def cells(self) -> list[tuple[Resolved, Cell]]:
        """Return every cell with its system: those without attack first."""
        return self._clean() + [pair for job in self.jobs() for pair in job.cells]

    def open_jobs(self, found: Container[str]) -> list[Job]:
        """Return the jobs with the cells that are not in ``found``, in the order in which they are carried out."""
        left = [job for job in (job.without(found) for job in self.jobs()) if job.cells]
        levels = list(self.attacks)
        return sorted(left, key=lambda job: (levels.index(job.knowledge), len(job.cells[0][1].after)))

    def tasks(self, found: Container[str]) -> list[Task]:
        """Return what is to be computed for the cells that are not in ``found``, in an order that can be kept."""
        clean = self._clean()
        keys = {system.subject.name: cell.key() for system, cell in clean}
        tasks = [Task((pair,)) for pair in clean if pair[1].key() not in found]
        for job in self.open_jobs(found):
            tasks.append(Task(job.cells, job, tuple(keys[system.subject.name] for system, _ in job.cells)))
        return tasks

    def batches(self) -> int:
        """Return in how many batches the images are taken."""
        return -(-len(self.images) // self.recipe.batch_size)

    def search(self) -> Search:
        """Return the precision in which bare classifiers are searched."""
        from ismn_cli.engine.passes import search_precision

        return search_precision(self.recipe.search, self.device)

    def bench(self, examples: FindExamples) -> Bench:
        """Return what attacks the images and judges them; ``examples`` keeps what is crafted."""
        return Bench(examples, self.images, self.device, self.recipe.batch_size, self.recipe.seed)

    def identity(self) -> str:
        """Return the hash of what decides the results."""
        content = self.recipe.model_dump(mode="json", exclude={"name", "summary", "weights", "model", "defence_params"})
        content["systems"] = [[s.base.weights, s.subject.key()] for s in (*self.systems, *self.sources)]
        content["search"] = self.search().value
        content["samples"] = self.images.samples().key()
        content["attacks"] = [attack.key() for attacks in self.attacks.values() for attack in attacks]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _clean(self) -> list[tuple[Resolved, Cell]]:
        return [(system, self.clean_cell(system)) for system in self.systems]

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
        chain, places = self._chains[knowledge]
        return chain[: places[attack.key()]]

    @cached_property
    def _chains(self) -> dict[Knowledge, tuple[tuple[AttackSpec, ...], dict[str, int]]]:
        """The attacks of each level that go one after the other, in their order, and each one's place by its key."""
        found = {}
        for knowledge, attacks in self.attacks.items():
            chain = [attack for attack in attacks if not _shared(knowledge, attack)]
            # What is cheap for what it breaks goes first: the dear ones are left with what holds. Stable.
            chain.sort(key=lambda attack: (attack.threat.eps, price(attack)))
            found[knowledge] = (tuple(chain), {attack.key(): place for place, attack in enumerate(chain)})
        return found

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
            search=self.search() if attack else Search.FP32,
            after=self._before(knowledge, attack) if attack else (),
        )


def _shared(knowledge: Knowledge, attack: AttackSpec) -> bool:
    """Whether all defences share the examples: gray-box ones, and those transferred from other systems."""
    return knowledge is Knowledge.GRAY or _is_transferred(knowledge, attack)


def _is_transferred(knowledge: Knowledge, attack: AttackSpec) -> bool:
    """Whether the examples are made on the attacker's own systems: a black box gives no gradient."""
    made_here = attack.method in ATTACKS or attack.code != ""  # examples made elsewhere are of no attack
    return knowledge is Knowledge.BLACK and made_here and needs_gradients(attack.method)


def needs_gradients(method: str) -> bool:
    """Whether an attack, one of ismn's or of the user's own, differentiates what it attacks."""
    from ismn_cli.attacks.params import find_attack

    return find_attack(method).gradient


def plan_matrix(
    recipe: MatrixRecipe,
    store: Store,
    data_dir: Path | None,
    device: str,
    prefer_base: str | None = None,
    steps: Steps = NO_STEPS,
) -> Matrix:
    """Find and check all that a matrix needs. Raises UsageError before any work is done.

    ``steps``: the recipe's own trainings, which are done.
    """
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device

    chosen = pick_device(device)
    images = load_dataset(recipe.dataset, "test", data_dir, recipe.seed)
    attacks = resolve_attacks(recipe, len(images.classes))
    recipe, own = on_own_base(recipe, images, store, chosen)
    check_gradients(own, attacks)
    setup = setup_of(recipe, data_dir, chosen)

    def found(name: str, weights: str, base: Base | None = None) -> Resolved:
        system = resolve(name, weights, store, images.kind, prefer_base, base, setup)
        on_device(system.pipeline, chosen)
        return system

    systems, left_out = _available(recipe, partial(found, base=own), steps)
    sources = sources_of(recipe, found, steps)  # the attacker's own need not stand on the user's classifier
    return Matrix(recipe, images, systems, attacks, sources, chosen, left_out, own)


def _available(
    recipe: MatrixRecipe, found: Callable[[str, str], Resolved], steps: Steps
) -> tuple[tuple[Resolved, ...], tuple[str, ...]]:
    """Return the recipe's systems, and why each optional one that is missing is left out."""
    systems, left_out = [], []
    for name in dict.fromkeys(recipe.defence):
        try:
            systems.append(found(name, steps.weights_of(name, recipe.weights)))
        except UsageError as error:
            if name not in recipe.optional:
                raise
            left_out.append(f"{name} is left out. {error.message} {error.hint}")
    if not systems:
        raise UsageError("None of the defences has weights.", left_out[0])
    return tuple(systems), tuple(left_out)


def sources_of(
    recipe: MatrixRecipe, found: Callable[[str, str], Resolved], steps: Steps
) -> tuple[Resolved, ...]:
    """Return the attacker's own systems, each ``found`` by its name and where its weights come from."""
    return tuple(found(*_source(name, recipe.weights, steps)) for name in _transferred(recipe))


def _source(name: str, weights: str, steps: Steps) -> tuple[str, str]:
    """Read "name" or "name@RUN": a system, and where its weights come from."""
    system, run = split_run(name)
    return system, run or steps.weights_of(system, weights)


def _transferred(recipe: MatrixRecipe) -> tuple[str, ...]:
    """Return the systems that examples are transferred from; none where no attack needs any."""
    methods = recipe.attack.methods(Knowledge.BLACK) if Knowledge.BLACK in recipe.knowledge else ()
    return tuple(dict.fromkeys(recipe.transfer)) if any(map(needs_gradients, methods)) else ()


def resolve_attacks(recipe: MatrixRecipe, num_classes: int) -> AttacksAt:
    """Return each knowledge level's attacks at every size with all parameters pinned.

    Raises UsageError, also for an attack that does not work on ``num_classes`` classes.
    """
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
            make_attack(spec, num_classes)
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
