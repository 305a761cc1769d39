"""The base classifier that the user names, for every system of a matrix or for a training: found, asked, and pinned."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import SYSTEMS, find
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe, ModelChoice, TrainRecipe
from ismn_cli.core.references import running
from ismn_cli.core.specs import AttackSpec, DataKind, Knowledge, Search
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.resolve import load_source, needs_base_only, source_of
from ismn_cli.stages.user_models import ASKED, check_answers, is_own, load_user_model
from ismn_cli.stages.weights import tensor_hash

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ismn_cli.data.image_set import ImageSet

_LOG = logging.getLogger("ismn")


def on_own_base(
    recipe: MatrixRecipe, images: ImageSet, store: Store, device: torch.device
) -> tuple[MatrixRecipe, Base | None]:
    """Return the base classifier that ``recipe`` names, if any, and the recipe as it is recorded. Raises UsageError."""
    from ismn_cli.engine.passes import can_be_guarded, search_precision

    if recipe.model is None:
        return recipe, None
    x = images.floats(slice(ASKED)).to(device)
    base = own_base(recipe.model, store, images.kind, x, recipe.weights)
    changes: dict[str, object] = {"model": recipe.model.anchored()}
    if search_precision(recipe.search, device) is Search.BF16 and not can_be_guarded(base.net, x):
        _LOG.info("%s does not work in bf16: attacks search in float32.", recipe.model.reference)
        changes["search"] = Search.FP32
    return recipe.model_copy(update=changes), base


def check_gradients(base: Base | None, attacks: Mapping[Knowledge, Sequence[AttackSpec]]) -> None:
    """Raise UsageError for an attack that would differentiate a classifier which has no gradients."""
    from ismn_cli.attacks.params import find_attack

    if base is None or base.differentiable:
        return
    for level, specs in attacks.items():
        entries = (find_attack(spec.method) for spec in specs)
        name = next((entry.name for entry in entries if entry.gradient), None)
        if name and level is not Knowledge.BLACK:
            raise UsageError(
                f"{name} needs gradients, and {base.origin} gives none: onnxruntime only answers.",
                "Ask it alone: --knowledge black --method square. Or bring examples over from another classifier: "
                f"--knowledge black --method {name} --transfer at",
            )


def own_base(choice: ModelChoice, store: Store, kind: DataKind, x: Tensor, weights: str = "auto") -> Base:
    """Return the base classifier that ``choice`` names, on the device of ``x``: the user's own, or one of ismn's.

    It is asked about a few images x [n, C, H, W] first. Raises UsageError, also where its answers are not logits for
    the classes of the data set.
    """
    if not is_own(choice.reference):
        return _own_of_ismn(choice, store, kind, weights)
    choice = choice.anchored()
    made = load_user_model(choice, kind.shape.channels)
    made.net.to(x.device)
    check_answers(made.net, x, kind.shape, choice.reference)
    origin = f"{choice.reference}, {made.origin}" if made.origin != choice.reference else made.origin
    return Base(made.net, made.pin, {}, origin, choice, made.differentiable)


def _own_of_ismn(choice: ModelChoice, store: Store, kind: DataKind, weights: str) -> Base:
    """Return the classifier of one of ismn's systems that are nothing else: "none", "at", "at@RUN"."""
    given = [name for name in ("arguments", "checkpoint", "mean", "std") if getattr(choice, name)]
    if given:
        raise UsageError(
            f"{choice.reference} is a system of ismn's own: --checkpoint, --model-arg, --mean and --std are for yours.",
            "Name yours as path/to/file.py:Name, or choose weights with --weights.",
        )
    name, _, run = choice.reference.partition("@")
    entry = find(SYSTEMS, "system", name)
    if entry.policy != "none":
        raise UsageError(f"{name} is a defended system, not a classifier.", f"Attack it with: --defence {name}")
    source = source_of(name, run or weights, store, kind)
    trained = load_source(source)
    net = trained.base if needs_base_only(entry) else trained.classifier
    return Base(net, tensor_hash(net), source.header.base_config, f"{name}, {source.origin}")


def for_training(recipe: TrainRecipe, images: ImageSet, store: Store, device: torch.device) -> Base:
    """Return the base classifier that a training names for its system. Raises UsageError."""
    if recipe.model is None:
        raise TypeError("the training names no base classifier")
    reference = recipe.model.reference
    if recipe.system == "classifier" or recipe.classifier != "auto":
        other = "--system classifier" if recipe.system == "classifier" else f"--classifier {recipe.classifier}"
        raise UsageError(
            f"{reference} is the base classifier as it is: {other} would make another.",
            f"Leave it out, and name what is to defend it: ismn train --system magnet --model {reference}",
        )
    base = own_base(recipe.model, store, images.kind, images.floats(slice(ASKED)).to(device))
    if not base.differentiable:
        raise UsageError(
            f"{base.origin} gives no gradients, which trainings need: onnxruntime only answers.",
            "Give the model as code or as TorchScript, or defend it by what needs no training, such as --defence jpeg.",
        )
    running(f"copy.deepcopy of {reference}, which trainings need,", lambda: copy.deepcopy(base.net))
    return base
