"""A matrix of what a running program holds: modules, defences, functions, tensors. The same stages as by name."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from ismn_cli.core.catalogue import ATTACKS, SYSTEMS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import AttackGrid, DataChoice, MatrixRecipe, ModelChoice
from ismn_cli.core.references import is_reference
from ismn_cli.core.settings import build_model, refusal
from ismn_cli.core.specs import Search, Subject, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.doctor import before_attack
from ismn_cli.stages.live_images import clean_images, live_images, named_images
from ismn_cli.stages.live_pins import pin
from ismn_cli.stages.own_base import check_gradients, on_own_base
from ismn_cli.stages.plan import Matrix, resolve_attacks, sources_of
from ismn_cli.stages.resolve import Resolved, needs_base_only, resolve
from ismn_cli.stages.steps import NO_STEPS
from ismn_cli.stages.user_defences import setup_of
from ismn_cli.stages.user_models import check_answers
from ismn_cli.stages.weights import on_device

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ismn_cli.data.image_set import ImageSet
    from ismn_models.pipeline import Defence

_LOG = logging.getLogger("ismn")
BATCH = 100


@dataclass(frozen=True)
class Asked:
    """What a program wants to be evaluated."""

    model: Any
    """An nn.Module with logits [N, K] for pixels in [0, 1], the name of one, or None for ismn's own."""
    images: Any
    """[N, C, H, W], uint8 or floats in [0, 1], or the name of a data set."""
    labels: Any
    attacks: Sequence[tuple[str | Callable[..., Any], Mapping[str, JsonValue]]]
    threat: ThreatModel
    defences: Sequence[Any]
    knowledge: Sequence[str]
    limit: int | None
    calibration: Any
    """Clean images that live detectors are calibrated on; None where they are as they should be."""
    seed: int
    batch_size: int
    device: str
    data_dir: Path | None
    doctor: bool


def plan_live(asked: Asked, store: Store) -> Matrix:
    """Find and check all that is to be evaluated. Raises UsageError before any work is done."""
    from ismn_cli.engine.device import pick_device

    device = pick_device(asked.device)
    images = _images(asked)
    recipe = _recipe(asked, images)
    recipe, own = _base(asked, recipe, images, store, device)
    attacks = resolve_attacks(recipe, len(images.classes))
    check_gradients(own, attacks)
    setup = setup_of(recipe, asked.data_dir, device)

    def found(name: str, weights: str) -> Resolved:
        _check_around(name, own)
        return resolve(name, weights, store, images.kind, None, own, setup)

    systems = []
    for defence, name in zip(asked.defences, recipe.defence, strict=True):
        live = None if isinstance(defence, str) else defence
        plain = found("none" if live is not None else name, recipe.weights)
        on_device(plain.pipeline, device)
        systems.append(plain if live is None else _defended(live, name, plain, asked, images, device))
    sources = sources_of(recipe, partial(resolve, store=store, kind=images.kind, setup=setup), NO_STEPS)
    return Matrix(recipe, images, tuple(systems), attacks, sources, device, (), own)


def _images(asked: Asked) -> ImageSet:
    if isinstance(asked.images, str):
        return named_images(asked.images, asked.labels, asked.limit, asked.data_dir, asked.seed)
    found = live_images(asked.images, asked.labels, asked.model)
    return found if asked.limit is None else found.select(asked.limit, asked.seed)


def _recipe(asked: Asked, images: ImageSet) -> MatrixRecipe:
    methods = dict(_method(attack, params) for attack, params in asked.attacks)
    if len(methods) < len(asked.attacks):
        raise UsageError("An attack is given twice.", "Evaluate it once for each setting of its parameters.")
    grid: dict[str, Any] = {
        "method": tuple(methods),
        "eps": (asked.threat.eps,),
        "norm": asked.threat.norm,
        "params": {name: dict(params) for name, params in methods.items() if params},
    }
    named = asked.images if isinstance(asked.images, str) else images.name
    content: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(["evaluate", *methods]))[:80],
        "dataset": DataChoice(name=named, limit=asked.limit),
        "model": ModelChoice(reference=asked.model, doctor=asked.doctor) if isinstance(asked.model, str) else None,
        "defence": _names(asked.defences),
        "knowledge": asked.knowledge,
        "attack": build_model(AttackGrid, grid, "the attacks", "See: ismn list attacks"),
        "seed": asked.seed,
        "batch_size": asked.batch_size,
    }
    return build_model(MatrixRecipe, content, "the evaluation", 'Levels are "black", "gray", "white" and "adaptive".')


def _method(attack: str | Callable[..., Any], params: Mapping[str, JsonValue]) -> tuple[str, Mapping[str, JsonValue]]:
    """Return the name of an attack and its parameters; a function is known by its name from here on."""
    from ismn_cli.attacks.plugins import LIVE, described

    if isinstance(attack, str):
        return attack, params
    name = str(getattr(attack, "__name__", type(attack).__name__))
    name = f"{name} (own)" if name in ATTACKS or is_reference(name) else name
    pinned = pin(attack)
    _tell(name, pinned.loose)
    LIVE[name] = described(name, "", attack, pinned.digest)
    return name, params


def _tell(name: str, loose: Sequence[str]) -> None:
    if loose:
        _LOG.warning("%s cannot be pinned (%s): it is attacked anew each time.", name, ", ".join(loose[:3]))


def _names(defences: Sequence[Any]) -> tuple[str, ...]:
    """Return a name for each defence: its own, its class's, with a number where it is not the only one."""
    names: list[str] = []
    for defence in defences:
        name = defence if isinstance(defence, str) else type(defence).__name__
        taken = name in names or (name in SYSTEMS and not isinstance(defence, str))
        names.append(f"{name} ({1 + sum(n.partition(' (')[0] == name for n in names)})" if taken else name)
    return tuple(names)


def _base(
    asked: Asked, recipe: MatrixRecipe, images: ImageSet, store: Store, device: torch.device
) -> tuple[MatrixRecipe, Base | None]:
    """Return the classifier that all stands on, if it is not ismn's own, and the recipe as it is recorded."""
    from torch import nn

    from ismn_cli.engine.passes import can_be_guarded, search_precision

    if not isinstance(asked.model, nn.Module):
        if asked.model is not None and not isinstance(asked.model, str):
            raise UsageError(
                f"A {type(asked.model).__name__} is no model.", "Give an nn.Module, the name of a model, or None."
            )
        return on_own_base(recipe, images, store, device)
    base = _live_base(asked.model, images, device, asked.doctor)
    try:
        before_attack(base, images, store, device)
    except UsageError as error:
        hint = "See ismn_cli.testing.check_model. To go on all the same: evaluate(..., doctor=False)"
        raise UsageError(error.message, hint) from error
    if search_precision(recipe.search, device) is Search.BF16 and not can_be_guarded(base.net, images.floats(slice(4))):
        recipe = recipe.model_copy(update={"search": Search.FP32})
    return recipe, base


def _live_base(model: nn.Module, images: ImageSet, device: torch.device, doctor: bool) -> Base:
    """Return a copy of the model on the device: the program's own stays where and as it is."""
    name = type(model).__name__
    try:
        net = copy.deepcopy(model)
    except Exception as error:
        hint = "Take open files, locks and tensors with a history out of its attributes."
        raise UsageError(f"{name} cannot be copied: {type(error).__name__}: {error}.", hint) from error
    pinned = pin(model)
    _tell(name, pinned.loose)
    net.to(device).eval()
    check_answers(net, images.floats(slice(4)).to(device), images.kind.shape, name)
    return Base(net, pinned.digest, {}, f"the program's {name}", ModelChoice(reference=name, doctor=doctor))


def _check_around(name: str, own: Base | None) -> None:
    """Raise UsageError for a system that is trained, around a module that no training can be told of."""
    entry = SYSTEMS.get(name)
    if own is None or own.model is None or not own.origin.startswith("the program's") or entry is None:
        return
    if not needs_base_only(entry):
        raise UsageError(
            f"{name} is trained around its classifier, and there is none around {own.origin}.",
            "Name the classifier (model='file.py:Name') and train it: "
            f"ismn train --system {entry.trained_as} --model file.py:Name",
        )


def _defended(
    defence: Defence, name: str, plain: Resolved, asked: Asked, images: ImageSet, device: torch.device
) -> Resolved:
    """Return a copy of the program's defence before the classifier, checked and, if asked, calibrated."""
    from ismn_cli.threats.contract import contract_problems
    from ismn_models.pipeline import Defence, Pipeline

    if not isinstance(defence, Defence):
        raise UsageError(f"A {type(defence).__name__} is no defence.", "Derive it from ismn_cli.Defence, or name one.")
    pipeline = on_device(Pipeline(plain.pipeline.base, copy.deepcopy(defence)), device)
    pipeline.eval()
    if found := contract_problems(pipeline, name, images.kind.shape, device):
        raise refusal(name, found, "See ismn_cli.testing.check_defence.")
    _calibrate(pipeline, name, asked, device)
    pinned = pin(pipeline.defence)
    _tell(name, pinned.loose)
    content = f"{plain.base.weights}\n{pinned.digest}"
    subject = Subject(name=name, weights=hashlib.sha256(content.encode()).hexdigest())
    policy: Any = "reform" if defence.policy == "pass" else defence.policy
    return replace(plain, subject=subject, pipeline=pipeline, origin=f"before {plain.origin}", policy=policy)


def _calibrate(pipeline: Any, name: str, asked: Asked, device: torch.device) -> None:
    """Raises UsageError for a detector that flags nothing, because nobody has calibrated it."""
    import torch

    from ismn_cli.core.references import running
    from ismn_cli.engine.rng import derive, isolated
    from ismn_cli.threats.contract import has_own

    defence = pipeline.defence
    if asked.calibration is not None and has_own(defence, "calibrate"):
        x = clean_images(asked.calibration).to(device)
        with isolated(derive(asked.seed, "calibrate")), torch.no_grad():
            running(f"{name}, calibrate", lambda: defence.calibrate(list(torch.split(x, BATCH)), pipeline.classifier))
    if defence.policy not in ("reject", "route") or has_own(defence, "decide") or defence.threshold.numel() != 1:
        return
    if not math.isfinite(defence.threshold):
        raise UsageError(
            f"{name} flags nothing: its threshold is {float(defence.threshold)}.",
            "Calibrate it before, or let it be calibrated: evaluate(..., calibration=clean_images)",
        )
