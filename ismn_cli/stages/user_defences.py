"""Defences of the user's own: built from what names them, before a classifier, checked, calibrated and pinned."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import JsonValue

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.recipes import DataChoice, MatrixRecipe
from ismn_cli.core.references import called, code_hash, is_reference, load_attribute, plugins, running
from ismn_cli.core.settings import refusal
from ismn_cli.core.specs import DataKind, Subject
from ismn_cli.core.storage import move_aside, read_bytes, write_bytes
from ismn_cli.core.store import Store
from ismn_cli.stages.live_pins import settings_pin
from ismn_cli.stages.weights import on_device, tensor_hash

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.stages.resolve import Resolved
    from ismn_models.pipeline import Defence, Pipeline

Answer = TypeVar("Answer")
FORM = (
    "A defence is a class derived from ismn_models.pipeline.Defence, a function that makes one, or one that is made."
)
IMAGES = 5000
"""Validation images that a detector is calibrated on at most: all of CIFAR-10's, as ismn's own detectors."""
BATCH = 100
PLACE = "calibrations"


@dataclass(frozen=True)
class DefenceSetup:
    """What a matrix says of the defences of the user's own that stand in it."""

    dataset: DataChoice
    device: torch.device
    data_dir: Path | None = None
    seed: int = 0
    arguments: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """Of each, by the name that the recipe has for it."""


def setup_of(recipe: MatrixRecipe, data_dir: Path | None, device: torch.device) -> DefenceSetup:
    """Return what ``recipe`` says of them. Raises UsageError for arguments of what is none of them."""
    names = {*recipe.defence, *(name for name, _ in map(split_run, recipe.transfer))}
    for name in recipe.defence_params:
        if name in SYSTEMS:
            raise UsageError(
                f"{name} is a system of ismn's own: it takes no arguments here.",
                "It is trained with settings: ismn train --system NAME KEY=VALUE",
            )
        if name not in names:
            raise UsageError(
                f"Arguments are given for '{name}', which is not among the defences.",
                f"The defences are: {', '.join(recipe.defence)}.",
            )
    return DefenceSetup(recipe.dataset, device, data_dir, recipe.seed, recipe.defence_params)


def split_run(name: str) -> tuple[str, str]:
    """Read "name" or "name@RUN"; a reference may have an "@" in its path."""
    place, colon, rest = name.rpartition(":")
    system, _, run = rest.partition("@")
    return f"{place}{colon}{system}", run


def reference_of(name: str) -> str:
    """Return the reference to a defence that is not of ismn's own. Raises UsageError with the nearest system."""
    if is_reference(name):
        return name
    found = plugins("defence")
    if name not in found:
        raise unknown_name("system", name, {*SYSTEMS, *found})
    return found[name]


def asked(name: str, ask: Callable[[], Answer]) -> Answer:
    """Return what a system called ``name`` answers; what one of the user's own raises is theirs to put right."""
    return ask() if name in SYSTEMS else running(f"{name}, asked about images,", ask)


def make_defence(name: str, arguments: Mapping[str, JsonValue]) -> tuple[Defence, str]:
    """Return the defence that ``name`` refers to, and what pins its code: what it is called there, and the sha256.

    What is drawn at random is drawn from one seed. Raises UsageError: there is none, its code fails, or it is no
    defence.
    """
    from ismn_cli.engine.guard import settings_kept
    from ismn_cli.engine.rng import isolated

    reference = reference_of(name)
    # What the user's code prints is no result.
    with isolated(0), settings_kept(), redirect_stdout(sys.stderr):
        defence = _built(name, load_attribute(reference, "defence"), arguments)
    return defence, f"{reference.rpartition(':')[2]}\n{code_hash(reference, 'defence')}"


def _built(name: str, found: Any, arguments: Mapping[str, JsonValue]) -> Defence:
    from ismn_models.pipeline import Defence

    made: Any = found
    if isinstance(found, Defence):
        if arguments:
            raise UsageError(
                f"{name} is a defence that is made already: arguments would change nothing.", "Name its class."
            )
        # One of its own for each system: calibration must not reach another.
        made = running(f"copying {name}", lambda: copy.deepcopy(found))
    elif callable(found):
        made = called(name, found, arguments, "--defence-arg")
    if not isinstance(made, Defence):
        gives = f"gives a {type(made).__name__}" if made is not found else f"is a {type(found).__name__}"
        raise UsageError(f"{name} {gives}, not a defence.", FORM)
    return made


def defended(name: str, plain: Resolved, setup: DefenceSetup, store: Store, kind: DataKind) -> Resolved:
    """Return the user's defence called ``name`` before the classifier of ``plain``, an undefended system.

    A detector is calibrated on clean validation images once; the store keeps what came of it. Raises UsageError,
    before any attack: no defence of that name, one that does not keep to the contract, nothing to calibrate it on.
    """
    from ismn_models.pipeline import Pipeline

    arguments = setup.arguments.get(name, {})
    defence, code = make_defence(name, arguments)
    pipeline = on_device(Pipeline(plain.pipeline.base, defence), setup.device)
    pipeline.eval()
    _check_contract(pipeline, name, kind, setup)
    text = json.dumps([dict(arguments), code, settings_pin(defence)], sort_keys=True)
    told = _calibrated(pipeline, name, f"{plain.base.weights}\n{text}", setup, store)
    content = f"{plain.base.weights}\n{tensor_hash(defence)}\n{text}"
    subject = Subject(name=name, weights=hashlib.sha256(content.encode()).hexdigest())
    policy = "reform" if defence.policy == "pass" else defence.policy
    return replace(plain, subject=subject, pipeline=pipeline, origin=f"before {plain.origin}{told}", policy=policy)


def _check_contract(pipeline: Pipeline, name: str, kind: DataKind, setup: DefenceSetup) -> None:
    from ismn_cli.threats.contract import contract_problems, has_own

    found = contract_problems(pipeline, name, kind.shape, setup.device)
    if not found and not has_own(pipeline.defence, "calibrate"):
        found = _threshold_problems(pipeline.defence)
    if found:
        raise refusal(name, found, "See the base class: ismn_models.pipeline.Defence.")


def _threshold_problems(defence: Defence) -> list[str]:
    """Return what is wrong with the threshold at which a detector flags; one that decides by itself needs none."""
    from ismn_cli.threats.contract import has_own

    threshold = defence.threshold
    if defence.policy not in ("reject", "route") or has_own(defence, "decide"):
        return []
    if threshold.numel() == 1 and math.isfinite(threshold):
        return []
    shown = threshold.flatten()[:3].tolist()
    return [
        f"policy = {defence.policy!r} and threshold {shown[0] if len(shown) == 1 else shown}: it should be the score "
        "from which on an image is flagged; fit it in calibrate, or set it in __init__: self.threshold.fill_(0.5)"
    ]


def _calibrated(pipeline: Pipeline, name: str, pin: str, setup: DefenceSetup, store: Store) -> str:
    """Calibrate the detector, if there is one, or take what is kept of the first time; return in words on what."""
    from ismn_cli.threats.contract import has_own

    defence = pipeline.defence
    if not has_own(defence, "calibrate"):
        return ""
    images = _clean_images(name, setup)
    content = "\n".join([pin, tensor_hash(defence), images.samples().key(), str(setup.seed)])
    path = store.root / PLACE / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"
    kept = _kept(store, path)
    if kept is None:
        _calibrate(pipeline, name, images, setup)
        _keep(path, defence)
    else:
        _put(defence, kept)
    told = f"; calibrated on {len(images):,} {images.split} images of {images.name}"
    return told + (f", threshold {float(defence.threshold):.4g}" if defence.threshold.numel() == 1 else "")


def _clean_images(name: str, setup: DefenceSetup) -> ImageSet:
    from ismn_cli.data.loading import load_dataset

    choice = setup.dataset.model_copy(update={"limit": IMAGES})
    try:
        return load_dataset(choice, "validation", setup.data_dir, setup.seed)
    except UsageError as error:
        raise UsageError(
            f"{name} is calibrated on clean validation images, and {choice.name} gives none: {error.message}",
            f"{error.hint} Or set its threshold in __init__, and leave calibrate out.",
        ) from error


def _calibrate(pipeline: Pipeline, name: str, images: ImageSet, setup: DefenceSetup) -> None:
    """Raises UsageError: it fails, leaves nothing that can be kept, or a threshold that flags nothing."""
    import torch

    from ismn_cli.engine.guard import settings_kept
    from ismn_cli.engine.modes import evaluating
    from ismn_cli.engine.rng import derive, isolated
    from ismn_cli.threats.contract import blank

    defence, before = pipeline.defence, blank(pipeline.defence)
    batches = _Batches(images, setup.device)
    with (
        isolated(derive(setup.seed, "calibrate")),
        settings_kept(),
        redirect_stdout(sys.stderr),
        evaluating(pipeline),
        torch.no_grad(),
    ):
        running(f"{name}, calibrate", lambda: defence.calibrate(batches, pipeline.classifier))
    after = blank(defence)
    loose = sorted(key for key in after if before.get(key) != after[key])
    if loose:
        raise UsageError(
            f"{name}: calibrate sets {', '.join(loose)}, which is no tensor that is registered: it cannot be kept.",
            f'Make it a buffer: self.register_buffer("{loose[0]}", torch.tensor(0.0)) in __init__, then .copy_().',
        )
    if found := _threshold_problems(defence):
        raise refusal(f"{name}, calibrated", found, "It was shown clean validation images.")


class _Batches:
    """Images in batches, as often as they are asked for."""

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images, self.device = images, device

    def __iter__(self) -> Iterator[Tensor]:
        import torch

        for x, _ in self.images.batches(BATCH):
            yield x.to(self.device, memory_format=torch.channels_last)


def _tensors(defence: Defence) -> dict[str, Tensor]:
    """Return all that calibration may change: those that state dicts leave out as well."""
    return {name: tensor.detach() for name, tensor in (*defence.named_parameters(), *defence.named_buffers())}


def _keep(path: Path, defence: Defence) -> None:
    from safetensors.torch import save

    whole = save({name: tensor.cpu().contiguous().clone() for name, tensor in _tensors(defence).items()})
    write_bytes(path, whole)


def _kept(store: Store, path: Path) -> dict[str, Tensor] | None:
    """Return what calibration came to the first time; None where that cannot be trusted."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path)
    try:
        return None if content is None else load(content)
    except SafetensorError as error:
        move_aside(store.root, path, str(error))
        return None


def _put(defence: Defence, kept: Mapping[str, Tensor]) -> None:
    """Put back what calibration came to, whatever shape it has given the tensors."""
    for name, tensor in kept.items():
        place, _, leaf = name.rpartition(".")
        owner: nn.Module = defence.get_submodule(place)
        moved, parameter = tensor.to(defence.threshold.device), owner._parameters.get(leaf)
        if parameter is not None:
            parameter.data = moved
        elif leaf in owner._buffers:
            owner._buffers[leaf] = moved  # kept out of state dicts where it was
        else:
            owner.register_buffer(leaf, moved)
