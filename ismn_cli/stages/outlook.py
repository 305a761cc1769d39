"""What a recipe would do, found without doing it: trainings, systems, cells, and the memory that they take."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.catalogue import SYSTEMS, SystemEntry, find, load
from ismn_cli.core.errors import UsageError
from ismn_cli.core.forecast import Forecast
from ismn_cli.core.outlook import Footprint, Outlook, PlannedSystem, PlannedTraining
from ismn_cli.core.recipes import MatrixRecipe, Recipe, TrainRecipe
from ismn_cli.core.references import running
from ismn_cli.core.specs import DataKind, Knowledge
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.footprints import Place, attack_footprint, stage_facts, training_footprints
from ismn_cli.stages.forecast import forecast
from ismn_cli.stages.own_base import check_gradients, on_own_base
from ismn_cli.stages.plan import Matrix, resolve_attacks, sources_of
from ismn_cli.stages.resolve import Resolved, needs_base_only, resolve
from ismn_cli.stages.steps import Steps
from ismn_cli.stages.training_plan import Plan, plan_training, training_stages
from ismn_cli.stages.trainings import finished_run, step_recipe
from ismn_cli.stages.user_defences import DefenceSetup, defended, make_defence, setup_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ismn_models.pipeline import Pipeline
    from ismn_models.shape import Shape
    from ismn_models.training import Stage

OnProgress = Callable[[str, int, int], None]
"""Takes what is being measured, how many have been, and how many there are."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Training:
    """A training that is found and checked."""

    plan: Plan
    run: str | None
    """Its run, where it is finished."""
    after: _Training | None = None
    """An unfinished training that gives it its base classifier."""

    def build(self) -> Pipeline:
        """Return the untrained system."""
        plan, shape = self.plan, self.plan.train.kind.shape
        system: Pipeline = load(plan.entry.build)(plan.settings, shape, base=self._base(shape))
        return system

    def schedule(self) -> list[Stage]:
        """Return its stages; those of a base that another trains are not among them."""
        stages = training_stages(self.plan, self.build())
        return [stage for stage in stages if not (self.after and stage.name == "base")]

    def planned(self, name: str) -> PlannedTraining:
        """Return what there is to say about it."""
        plan = self.plan
        base = plan.base.origin if plan.base else "trained first" if plan.trains_base_first() else ""
        epochs = {stage.name: stage.epochs for stage in stage_facts(self.schedule)}
        return PlannedTraining(name, plan.recipe.system, base, len(plan.train), epochs, self.run)

    def _base(self, shape: Shape) -> nn.Module | None:
        plan = self.plan
        if plan.base is not None:
            return copy.deepcopy(plan.base.net)
        if self.after is not None:
            return self.after.build().base
        base: nn.Module | None = None
        if plan.trains_base_first():
            base = load(SYSTEMS["none"].build)(plan.base_settings, shape).base
        return base


@dataclass(frozen=True)
class _System:
    """A system of a matrix, and how it is built to be measured."""

    name: str
    origin: str
    missing: bool
    """Whether it has no weights, and will have none when the recipe's trainings are done."""
    build: Callable[[], Pipeline]
    resolved: Resolved | None = None


def outlook(
    recipe: Recipe, store: Store, data_dir: Path | None, device: str, on_progress: OnProgress = lambda *_: None
) -> Outlook:
    """Return what ``recipe`` would do. Nothing is trained, attacked or stored.

    Raises UsageError for what would stop the recipe before its work begins; systems without weights are listed.
    """
    return expected(recipe, store, data_dir, device, on_progress, timed=False)[0]


def expected(
    recipe: Recipe,
    store: Store,
    data_dir: Path | None,
    device: str,
    on_progress: OnProgress = lambda *_: None,
    timed: bool = True,
) -> tuple[Outlook, Forecast | None]:
    """Return the outlook of ``recipe`` and, where ``timed``, the time and disk of a matrix; see `outlook`."""
    from ismn_cli.engine.device import pick_device
    from ismn_cli.engine.memory import free_bytes

    chosen = pick_device(device)
    memory = free_bytes(chosen)
    costs = None
    if isinstance(recipe, TrainRecipe):
        trainings = {recipe.name: _found(plan_training(recipe, store, data_dir, device), store)}
        images, systems = trainings[recipe.name].plan.test, tuple[PlannedSystem, ...]()
        footprints = list(_of_trainings(trainings, memory, _telling(on_progress, 1)))
    else:
        matrix, trainings, rows = _of_matrix(recipe, store, data_dir, device, chosen)
        images, systems = matrix.images, _planned(matrix, rows, store)
        tell = _telling(on_progress, len(trainings) + len(rows) * len(matrix.attacks))
        footprints = [*_of_trainings(trainings, memory, tell), *_of_attacks(matrix, rows, memory, tell)]
        if timed and matrix.systems:
            costs = forecast(matrix, store, on_progress, tuple(row.name for row in rows if row.resolved is None))
    return (
        Outlook(
            recipe=recipe.name,
            dataset=images.kind.dataset,
            images=len(images),
            systems=systems,
            trainings=tuple(training.planned(name) for name, training in trainings.items()),
            footprints=tuple(footprints),
            memory=memory,
            device=str(chosen),
        ),
        costs,
    )


def _telling(on_progress: OnProgress, total: int) -> Tell:
    done = itertools.count()
    return lambda label: on_progress(label, next(done), total)


def _of_matrix(
    recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str, chosen: torch.device
) -> tuple[Matrix, dict[str, _Training], list[_System]]:
    """Return the matrix of the systems that have weights now, the recipe's trainings, and all its systems."""
    from ismn_cli.data.loading import load_dataset

    images = load_dataset(recipe.dataset, "test", data_dir, recipe.seed)
    attacks = resolve_attacks(recipe, len(images.classes))
    recipe, own = on_own_base(recipe, images, store, chosen)
    check_gradients(own, attacks)
    trainings = _trainings(recipe, store, data_dir, device)
    setup = setup_of(recipe, data_dir, chosen)
    rows = [
        _system(name, recipe, trainings, store, images.kind, own, setup) for name in dict.fromkeys(recipe.defence)
    ]
    ready = tuple(row.resolved for row in rows if row.resolved)
    sources = _sources(recipe, trainings, partial(resolve, store=store, kind=images.kind, setup=setup))
    matrix = Matrix(recipe, images, ready, attacks, sources, chosen)
    return matrix, trainings, rows


def _sources(
    recipe: MatrixRecipe, trainings: Mapping[str, _Training], found: Callable[[str, str], Resolved]
) -> tuple[Resolved, ...]:
    """Return the attacker's own systems; none where they are still to be trained."""
    runs = {name: training.run for name, training in trainings.items() if training.run}
    steps = Steps({name: recipe.training[name].system for name in runs}, runs)
    try:
        return sources_of(recipe, found, steps)
    except UsageError:
        if len(runs) < len(trainings):
            return ()
        raise


def _trainings(recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str) -> dict[str, _Training]:
    """Return the recipe's trainings; one that stands on an unfinished one is planned on a fresh base."""
    found: dict[str, _Training] = {}
    for name, step in recipe.training.items():
        runs = {earlier: training.run or "fresh" for earlier, training in found.items()}
        after = found.get(step.classifier)
        if after is None and step.classifier == "auto" and "fresh" in runs.values():
            runs["auto"] = "fresh"
        plan = plan_training(step_recipe(recipe, name, runs), store, data_dir, device)
        found[name] = _Training(plan, None, after) if after and not after.run else _found(plan, store)
    return found


def _found(plan: Plan, store: Store) -> _Training:
    return _Training(plan, finished_run(plan, store))


def _system(
    name: str,
    recipe: MatrixRecipe,
    trainings: Mapping[str, _Training],
    store: Store,
    kind: DataKind,
    own: Base | None,
    setup: DefenceSetup,
) -> _System:
    if name not in SYSTEMS:
        plain = _system("none", recipe, trainings, store, kind, own, setup)
        return _before(name, plain, setup, store, kind)
    entry = find(SYSTEMS, "system", name)
    step = _step_of(entry, trainings)
    training = trainings[step] if step else None
    if step and training and not training.run:
        build = partial(_trained_by, training, entry, kind.shape)
        return _System(name, f"trained first, in step {step}", False, build)
    try:
        weights = training.run if training and training.run else recipe.weights
        resolved = resolve(name, weights, store, kind, own=own)
    except UsageError as error:
        build = partial(_untrained, entry, kind.shape, own.net if own else None)
        return _System(name, f"{error.message} {error.hint}", True, build)
    return _System(name, resolved.origin, False, partial(_copied, resolved.pipeline), resolved)


def _copied(system: Pipeline) -> Pipeline:
    """Return a copy, to be measured. Raises UsageError where the user's code makes none."""
    return running("copy.deepcopy of the model, which a plan needs,", lambda: copy.deepcopy(system))


def _before(name: str, plain: _System, setup: DefenceSetup, store: Store, kind: DataKind) -> _System:
    """Return a defence of the user's own before the classifier of ``plain``, an undefended system."""
    from ismn_models.pipeline import Pipeline

    if plain.resolved is not None:
        found = defended(name, plain.resolved, setup, store, kind)
        return _System(name, found.origin, False, partial(_copied, found.pipeline), found)
    defence, _ = make_defence(name, setup.arguments.get(name, {}))
    return _System(name, plain.origin, plain.missing, lambda: Pipeline(plain.build().base, copy.deepcopy(defence)))


def _step_of(entry: SystemEntry, trainings: Mapping[str, _Training]) -> str | None:
    """Return the step of the recipe that a system is taken from; see `Steps.weights_of`."""
    if needs_base_only(entry):
        return next(iter(trainings), None)
    fitting = (name for name, training in trainings.items() if training.plan.recipe.system == entry.trained_as)
    return next(fitting, None)


def _trained_by(training: _Training, entry: SystemEntry, shape: Shape) -> Pipeline:
    system = training.build()
    if entry.trained_as != training.plan.recipe.system:
        return _untrained(entry, shape, system.base)
    altered: Pipeline = load(entry.alter)(system) if entry.alter else system
    return altered


def _untrained(entry: SystemEntry, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the system by its own defaults."""
    settings: Any = load(entry.config)() if entry.config else None
    if hasattr(settings, "resolved"):
        settings = settings.resolved(shape)
    system: Pipeline = load(entry.build)(settings, shape, base=base)
    altered: Pipeline = load(entry.alter)(system) if entry.alter else system
    return altered


def _planned(matrix: Matrix, rows: Iterable[_System], store: Store) -> tuple[PlannedSystem, ...]:
    """Return each system with its cells, and how many of them are stored."""
    stored = Counter(system.subject.name for system, cell in matrix.cells() if store.cell(cell.key()))
    each = 1 + sum(map(len, matrix.attacks.values()))
    return tuple(PlannedSystem(row.name, row.origin, not row.missing, each, stored[row.name]) for row in rows)


def _of_trainings(trainings: Mapping[str, _Training], memory: int | None, tell: Tell) -> Iterator[Footprint]:
    for name, training in trainings.items():
        tell(name)
        plan = training.plan
        place = Place(plan.train.kind.shape, len(plan.train), memory)
        yield from training_footprints(name, training.schedule, place, plan.precision)


def _of_attacks(
    matrix: Matrix, rows: Iterable[_System], memory: int | None, tell: Tell
) -> Iterator[Footprint]:
    recipe, place = matrix.recipe, Place(matrix.images.kind.shape, len(matrix.images), memory)
    batch_size = min(recipe.batch_size, len(matrix.images))
    for row in rows:
        for level in matrix.attacks:
            tell(f"{row.name}, {level}")
            shown = partial(_views, row.build, level, recipe.attack.eot)
            yield attack_footprint(row.name, level, shown, place, batch_size)


def _views(build: Callable[[], Pipeline], level: Knowledge, eot: int) -> dict[str, nn.Module]:
    from ismn_cli.threats.views import views

    system = build().eval()
    averaged = eot if system.defence.randomised and level in (Knowledge.WHITE, Knowledge.ADAPTIVE) else 1
    return views(system, level, eot=averaged)
