"""Training of one system: checked as a whole first, continued where it was cut, measured at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from ismn_cli.core.catalogue import SYSTEMS, TRAINABLE, SystemEntry, find, load
from ismn_cli.core.environment import capture
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import TrainRecipe
from ismn_cli.core.records import Environment
from ismn_cli.core.runs import Run
from ismn_cli.core.settings import build_settings
from ismn_cli.core.specs import DataKind
from ismn_cli.core.storage import writing
from ismn_cli.core.store import Store
from ismn_cli.core.tracking import Openers
from ismn_cli.stages.bases import Base
from ismn_cli.stages.curves import Curves
from ismn_cli.stages.doctor import before_attack
from ismn_cli.stages.measure import clean_figures
from ismn_cli.stages.own_base import for_training
from ismn_cli.stages.resolve import WEIGHTS, base_of, finished
from ismn_cli.stages.tracking import NO_TRACKERS, Tracking
from ismn_cli.stages.weights import Header, on_device, save_weights, system_hash, tensor_hash
from ismn_models.refusal import RefusalError

if TYPE_CHECKING:
    import torch

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.engine.fit import OnProgress, Precision
    from ismn_models.pipeline import Pipeline
    from ismn_models.shape import Shape
    from ismn_models.training import Stage

_LOG = logging.getLogger("ismn")
CHECKPOINT = "checkpoint.pt"
_DISK_SIGNS = ("PytorchStreamWriter", "unexpected pos")
"""What torch.save says when a disk is full."""


@dataclass(frozen=True)
class Plan:
    """A training with everything found and checked."""

    recipe: TrainRecipe
    entry: SystemEntry
    settings: Any
    base: Base | None
    """None: the base classifier is trained first, or is the system itself."""
    base_settings: Any
    """Of the base classifier where it is trained first."""
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    device: torch.device
    precision: Precision

    def resolved(self) -> dict[str, JsonValue]:
        """Return the recipe with every setting filled in."""
        return self.recipe.model_dump(mode="json") | {"config": _plain(self.settings)}

    def trains_base_first(self) -> bool:
        """Whether the base classifier is another system, trained here."""
        return self.base is None and self.recipe.system != "classifier"

    def base_config(self) -> dict[str, JsonValue]:
        """Return the settings that the base classifier has or will have."""
        if self.base is not None:
            return self.base.config
        return _plain(self.settings if self.recipe.system == "classifier" else self.base_settings)

    def identity(self) -> str:
        """Return the hash of what decides the weights: recipe, base classifier and data."""
        named = {"name", "summary", "classifier", "model"} | ({"classifier_config"} if self.base else set())
        content = {k: v for k, v in self.resolved().items() if k not in named}
        content |= {
            "base": self.base.weights if self.base else "fresh",
            "data": [self.train.data_hash, self.validation.data_hash],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """A finished training; ``already``: it was finished before it was asked for."""

    run: Run
    already: bool


def plan_training(recipe: TrainRecipe, store: Store, data_dir: Path | None, device: str) -> Plan:
    """Find and check all that a training needs. Raises UsageError before any work is done."""
    from ismn_cli.engine.device import autocast, pick_device

    entry = find(TRAINABLE, "system to train", recipe.system)
    settings = build_settings(load(str(entry.config)), recipe.config, f"settings of {recipe.system}")
    chosen = pick_device(device)
    precision = autocast(chosen, recipe.precision)
    base_settings = build_settings(load(str(SYSTEMS["none"].config)), recipe.classifier_config, "classifier_config")
    train, validation, test = (_images(recipe, split, data_dir) for split in ("train", "validation", "test"))
    settings = _fitted(settings, train.kind.shape, f"settings of {recipe.system}")
    base_settings = _fitted(base_settings, train.kind.shape, "classifier_config")
    base = _base(recipe, store, train.kind) if recipe.model is None else for_training(recipe, train, store, chosen)
    if base is not None and base.model is not None:
        recipe = recipe.model_copy(update={"model": base.model, "classifier": "auto"})
    if recipe.classifier_config and (base or recipe.system == "classifier"):
        raise UsageError(
            "classifier_config is for a base classifier that is trained first; here none is.",
            "Add --classifier fresh, or leave classifier_config out (--system classifier takes config).",
        )
    return Plan(recipe, entry, settings, base, base_settings, train, validation, test, chosen, precision)


def train(
    recipe: TrainRecipe,
    store: Store,
    data_dir: Path | None,
    device: str,
    on_progress: OnProgress,
    fresh: bool = False,
    track: Openers = NO_TRACKERS,
) -> Trained:
    """Train a system, or continue, or return at once if this very training is done.

    ``fresh`` begins again from nothing; ``track`` is told of it on the way. Raises UsageError: bad input, a damaged
    checkpoint, a run that another process works on.
    """
    plan = plan_training(recipe, store, data_dir, device)
    before_attack(plan.base, plan.test, store, plan.device)
    run = store.start_run("train", recipe.name, plan.resolved(), _environment(plan), plan.identity())
    with run.lock():
        if fresh:
            _forget(run)
        if finished(run):
            return Trained(run, already=True)
        with marking(run), saving(run.folder), telling():
            _fit_and_measure(plan, run, on_progress, track)
    return Trained(run, already=False)


def _fitted(settings: Any, shape: Shape, where: str) -> Any:
    """Return ``settings`` with what depends on the images filled in, where there is such a thing."""
    if not hasattr(settings, "resolved"):
        return settings
    try:
        return settings.resolved(shape)
    except ValueError as error:
        images = f"{shape.channels} x {shape.size} x {shape.size}"
        raise UsageError(f"{where}: {error}.", f"The training images are {images} pixels.") from None


@contextmanager
def marking(run: Run) -> Iterator[None]:
    """Mark ``run`` as interrupted if the block does not end well; what it stored is kept."""
    if run.record.status != "running":
        run.update(status="running")
    try:
        yield
    except BaseException:
        with suppress(UsageError):
            run.update(status="interrupted")
        raise


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn a disk's refusal of a checkpoint or of weights into a UsageError, however torch words it."""
    try:
        with writing(folder):
            yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _DISK_SIGNS):
            raise
        raise UsageError(
            f"Cannot write to '{folder}': the disk refused.",
            "Free some space and type the same command: it continues after the last whole epoch.",
        ) from None


@contextmanager
def telling() -> Iterator[None]:
    """Turn what a system's training cannot do into a UsageError."""
    try:
        yield
    except RefusalError as refused:
        raise UsageError(refused.message, refused.hint) from refused


def _environment(plan: Plan) -> Environment:
    import torch

    return capture(str(plan.device), torch.get_num_threads())


def _base(recipe: TrainRecipe, store: Store, kind: DataKind) -> Base | None:
    choice = recipe.classifier
    if recipe.system == "classifier" and choice not in ("auto", "fresh"):
        raise UsageError(
            f"--system classifier trains a classifier; it cannot start from '{choice}'.",
            "Leave --classifier out.",
        )
    if choice == "fresh" or (choice == "auto" and recipe.system in ("classifier", "ismn")):
        return None
    return base_of(choice, store, kind)


def _images(recipe: TrainRecipe, split: str, data_dir: Path | None) -> ImageSet:
    from ismn_cli.data.loading import load_dataset

    return load_dataset(recipe.dataset, split, data_dir, recipe.seed)


def _forget(run: Run) -> None:
    for name in (CHECKPOINT, WEIGHTS):
        with writing(run.folder / name):
            (run.folder / name).unlink(missing_ok=True)


def _fit_and_measure(plan: Plan, run: Run, on_progress: OnProgress, track: Openers) -> None:
    from ismn_cli.engine.fit import fit

    checkpoint = run.folder / CHECKPOINT
    pipeline = build_pipeline(plan)
    stages = training_stages(plan, pipeline)
    _check_checkpoint(checkpoint, pipeline, stages)
    continued, start = checkpoint.exists(), time.perf_counter()
    with Tracking(track, run) as tracking:
        curves = Curves(tracking, pipeline, stages, plan.validation)
        figures = fit(
            pipeline,
            stages,
            plan.train.to(plan.device),
            plan.validation.to(plan.device),
            seed=plan.recipe.seed,
            checkpoint=checkpoint,
            precision=plan.precision,
            on_progress=curves.beside(on_progress),
        )
        seconds = None if continued else time.perf_counter() - start
        header = _header(plan, pipeline, stages)
        save_weights(run.folder / WEIGHTS, pipeline, header, base=header.model is None)
        figures["test"] = clean_figures(pipeline, plan.test, plan.device, on_progress)
        curves.end(figures)
    origin = plan.base.origin if plan.base else "trained in this run"
    notes = (f"base classifier: {origin}",)
    told = {"weights": system_hash(pipeline), "figures": figures, "training_seconds": seconds, "notes": notes}
    run.update(status="done", **told)
    checkpoint.unlink(missing_ok=True)


def build_pipeline(plan: Plan) -> Pipeline:
    """Return the untrained system; its first weights depend on the seed alone."""
    from ismn_cli.engine.rng import derive, seed_everything

    seed_everything(derive(plan.recipe.seed, "init"))
    shape = plan.train.kind.shape
    base = plan.base.net if plan.base else None
    if plan.trains_base_first():
        base = load(SYSTEMS["none"].build)(plan.base_settings, shape).base
    return on_device(load(plan.entry.build)(plan.settings, shape, base=base), plan.device)


def training_stages(plan: Plan, pipeline: Pipeline) -> list[Stage]:
    """Return the whole schedule: the base classifier's own first, where that is fresh."""
    stages: list[Stage] = []
    if plan.trains_base_first():
        stages += load(str(SYSTEMS["none"].stages))(pipeline, plan.base_settings)
    stages += load(str(plan.entry.stages))(pipeline, plan.settings)
    if plan.recipe.epochs is not None:
        for stage in stages:
            # A stage without epochs of its own (a threshold, a linear head) has nothing to shorten.
            stage.epochs = plan.recipe.epochs if stage.epochs else 0
    return stages


def _check_checkpoint(path: Path, pipeline: Pipeline, stages: list[Stage]) -> None:
    """Raise UsageError unless the checkpoint, if there is one, can be continued from."""
    import torch

    if not path.exists():
        return
    _LOG.info("Continuing from %s.", path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in pipeline.parts().items():
            part.load_state_dict(content["parts"][name])
        for stage in stages:
            if stage.name == content["stage"]:
                stage.load_state(content["state"])
    except Exception as error:  # a damaged file may raise anything at all
        raise UsageError(
            f"The checkpoint {path} cannot be continued from ({type(error).__name__}).",
            "Begin again with the same command and --fresh.",
        ) from None


def _header(plan: Plan, pipeline: Pipeline, stages: list[Stage]) -> Header:
    dataset, shape = plan.train.kind
    own = plan.base if plan.base and plan.base.model else None
    return Header(
        system=plan.recipe.system,
        config=_plain(plan.settings),
        classes=shape.classes,
        channels=shape.channels,
        size=shape.size,
        dataset=dataset,
        data=plan.train.data_hash,
        images=len(plan.train),
        epochs={stage.name: stage.epochs for stage in stages},
        base=own.weights if own else tensor_hash(pipeline.base),
        base_config=plan.base_config(),
        model=own.model if own else None,
    )


def _plain(settings: Any) -> dict[str, JsonValue]:
    """Return settings as JSON gives them back."""
    plain: dict[str, JsonValue] = json.loads(json.dumps(asdict(settings)))
    return plain
