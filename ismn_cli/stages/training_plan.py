"""What a training is: everything found and checked before any work, and what is built from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from ismn_cli.core.catalogue import SYSTEMS, TRAINABLE, SystemEntry, find, load
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import TrainRecipe
from ismn_cli.core.settings import build_settings
from ismn_cli.core.specs import DataKind
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.own_base import for_training
from ismn_cli.stages.resolve import base_of
from ismn_cli.stages.weights import on_device

if TYPE_CHECKING:
    import torch

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.engine.fit import Precision
    from ismn_models.pipeline import Pipeline
    from ismn_models.shape import Shape
    from ismn_models.training import Stage


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
        return self.recipe.model_dump(mode="json") | {"config": plain(self.settings)}

    def trains_base_first(self) -> bool:
        """Whether the base classifier is another system, trained here."""
        return self.base is None and self.recipe.system != "classifier"

    def base_config(self) -> dict[str, JsonValue]:
        """Return the settings that the base classifier has or will have."""
        if self.base is not None:
            return self.base.config
        return plain(self.settings if self.recipe.system == "classifier" else self.base_settings)

    def identity(self) -> str:
        """Return the hash of what decides the weights: recipe, base classifier and data."""
        named = {"name", "summary", "classifier", "model"} | ({"classifier_config"} if self.base else set())
        content = {k: v for k, v in self.resolved().items() if k not in named}
        content |= {
            "base": self.base.weights if self.base else "fresh",
            "data": [self.train.data_hash, self.validation.data_hash],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


def _fitted(settings: Any, shape: Shape, where: str) -> Any:
    """Return ``settings`` with what depends on the images filled in, where there is such a thing."""
    if not hasattr(settings, "resolved"):
        return settings
    try:
        return settings.resolved(shape)
    except ValueError as error:
        images = f"{shape.channels} x {shape.size} x {shape.size}"
        raise UsageError(f"{where}: {error}.", f"The training images are {images} pixels.") from None


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


def plain(settings: Any) -> dict[str, JsonValue]:
    """Return settings as JSON gives them back."""
    plain: dict[str, JsonValue] = json.loads(json.dumps(asdict(settings)))
    return plain
