"""The trainings that a matrix needs first, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
from ismn_cli.core.runs import run_id_of
from ismn_cli.core.store import Store
from ismn_cli.core.tracking import Openers
from ismn_cli.stages.plan import resolve_attacks
from ismn_cli.stages.resolve import finished
from ismn_cli.stages.steps import Steps
from ismn_cli.stages.tracking import NO_TRACKERS
from ismn_cli.stages.train import Trained, train
from ismn_cli.stages.training_plan import Plan, plan_training

if TYPE_CHECKING:
    from ismn_cli.engine.fit import OnProgress


def step_recipe(recipe: MatrixRecipe, name: str, runs: Mapping[str, str]) -> TrainRecipe:
    """Return the training called ``name`` by itself. ``runs``: those of the steps before it."""
    step = recipe.training[name]
    # Every step stands on the model that the matrix names, if it names one.
    on_own = recipe.model is not None and step.classifier in ("auto", *recipe.training)
    return TrainRecipe(
        name=f"{recipe.name}-{name}",
        summary=f"{name}, for {recipe.name}",
        system=step.system,
        dataset=recipe.dataset.model_copy(update={"limit": step.limit or recipe.dataset.limit}),
        model=recipe.model,
        classifier="auto" if on_own else runs.get(step.classifier, step.classifier),
        classifier_config=step.classifier_config,
        config=step.config,
        epochs=step.epochs,
        seed=recipe.seed,
    )


def run_steps(
    recipe: MatrixRecipe,
    store: Store,
    data_dir: Path | None,
    device: str,
    on_progress: OnProgress,
    on_step: Callable[[str, Trained], None] = lambda name, trained: None,
    track: Openers = NO_TRACKERS,
) -> Steps:
    """Carry out what is not trained yet; ``track`` is told. Raises UsageError; see `ismn_cli.stages.train.train`."""
    _check(recipe, store, data_dir, device)
    runs: dict[str, str] = {}
    for name in recipe.training:
        trained = train(step_recipe(recipe, name, runs), store.local(), data_dir, device, on_progress, track=track)
        runs[name] = trained.run.record.id
        on_step(name, trained)
    return Steps({name: step.system for name, step in recipe.training.items()}, runs)


def finished_steps(recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str) -> Steps:
    """Return which runs the recipe's own trainings are; nothing is trained, and no run is locked.

    Raises UsageError where one is not finished.
    """
    runs: dict[str, str] = {}
    for name in recipe.training:
        run = finished_run(plan_training(step_recipe(recipe, name, runs), store, data_dir, device), store)
        if run is None:
            raise UsageError(
                f"Training '{name}' of the recipe is not finished, and shards do not train.",
                "Train first, once: ismn run, with the same recipe, overrides and options, and --trainings.",
            )
        runs[name] = run
    return Steps({name: step.system for name, step in recipe.training.items()}, runs)


def finished_run(plan: Plan, store: Store) -> str | None:
    """Return the run that this training is; None where it is not finished."""
    wanted = run_id_of(plan.recipe.name, plan.identity())
    return next((wanted for run in store.local().runs() if run.record.id == wanted and finished(run)), None)


def _check(recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str) -> None:
    """Raise UsageError for what would stop the steps, or the matrix after them, before the first is trained."""
    known: list[str] = []
    classes = 0
    for name, step in recipe.training.items():
        if step.classifier in recipe.training and step.classifier not in known:
            raise UsageError(
                f"Training '{name}' stands on '{step.classifier}', which comes after it.",
                f"Put '{step.classifier}' first.",
            )
        # A step that stands on an earlier one is planned on a fresh base: all else about it is the same.
        base = dict.fromkeys(known, "fresh") | {"auto": "fresh"}
        plan = plan_training(step_recipe(recipe, name, base), store, data_dir, device)
        classes = len(plan.test.classes)
        known.append(name)
    resolve_attacks(recipe, classes)
