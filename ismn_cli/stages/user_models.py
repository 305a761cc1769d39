"""Models of the user's own, from wherever they come: built, loaded, normalised, and pinned."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.references import is_reference, referred
from ismn_cli.stages.loaders.made import Made

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ismn_models.shape import Shape

_ROOM = "ismn_cli.stages.loaders"
LIBRARIES: Mapping[str, str] = {
    "timm": f"{_ROOM}.libraries:timm_model",
    "hf-hub": f"{_ROOM}.libraries:hub_model",
    "torchvision": f"{_ROOM}.libraries:torchvision_model",
    "robustbench": f"{_ROOM}.libraries:robustbench_model",
}
"""What stands before the colon of LIBRARY:NAME, and who loads it."""
FILES: Mapping[str, str] = {
    ".pt": f"{_ROOM}.archives:torch_file",
    ".pth": f"{_ROOM}.archives:torch_file",
    ".ts": f"{_ROOM}.archives:torch_file",
    ".torchscript": f"{_ROOM}.archives:torch_file",
    ".pt2": f"{_ROOM}.archives:exported",
    ".onnx": f"{_ROOM}.onnx_files:onnx_model",
}
"""How a file that is a whole model ends, and who loads it."""
TENSORS = (".safetensors", ".th", ".bin", ".ckpt")
ASKED = 4
"""Images that a model is asked about before anything long."""


@dataclass(frozen=True)
class UserModel:
    """A model that takes pixels of [0, 1], as it was made: perhaps in training mode."""

    net: nn.Module
    choice: ModelChoice
    pin: str
    """sha256 over its tensors, its code and its normalisation: another file is another model."""
    origin: str

    @property
    def differentiable(self) -> bool:
        """Whether gradients come back from its logits."""
        return all(getattr(module, "differentiable", True) for module in self.net.modules())


def is_own(reference: str) -> bool:
    """Return whether ``reference`` is to a model of the user's own, not the name of a system of ismn's."""
    return _loader(reference) is not None or is_reference(reference) or reference.partition("@")[0] not in SYSTEMS


def load_user_model(choice: ModelChoice, channels: int) -> UserModel:
    """Return the model on the CPU, its checkpoint loaded, behind its normalisation for images of ``channels``.

    What is built from a class is in evaluation mode; what a function or a module gives is as it was given. What is
    drawn at random is drawn from one seed. Raises UsageError: nothing there of that name, the user's code fails, the
    checkpoint does not fit.
    """
    from ismn_cli.engine.normalised import Normalised
    from ismn_cli.engine.rng import isolated

    _check_normalisation(choice, channels)
    # What the user's code prints is no result.
    with isolated(0), redirect_stdout(sys.stderr):
        made = _made(choice)
    mean, std = (choice.mean, choice.std) if choice.mean else (made.mean, made.std)
    net = Normalised(made.net, mean, std) if mean and len(mean) in (1, channels) else made.net
    told = "" if not mean or choice.mean else f", behind its own mean {_listed(mean)} and std {_listed(std)}"
    return UserModel(net, choice, _pin(made, mean, std), f"{made.origin}{told}")


def _made(choice: ModelChoice) -> Made:
    loader = _loader(choice.reference)
    if loader is not None:
        load, *name = loader
        made: Made = load(choice, *name)
        return made
    reference = choice.reference
    if PurePath(reference).suffix in TENSORS and ":" not in reference:
        raise UsageError(
            f"{reference} holds tensors, not a model.",
            f"Name the code too: --model path/to/file.py:Name --checkpoint {reference}",
        )
    from ismn_cli.stages.loaders.code import from_code

    return from_code(choice, referred("model", reference, SYSTEMS))


def _loader(reference: str) -> tuple[Any, ...] | None:
    """Return who loads a library's model or a file, and the name that it has there; None for code."""
    library, colon, name = reference.partition(":")
    if colon and library in LIBRARIES:
        return _attribute(LIBRARIES[library]), name
    suffix = PurePath(reference).suffix.lower()
    return (_attribute(FILES[suffix]),) if suffix in FILES else None


def _attribute(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _pin(made: Made, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    from torch import Tensor

    from ismn_cli.stages.weights import hash_tensors

    net = made.net
    named = {**dict(net.named_buffers(remove_duplicate=False)), **net.state_dict()}
    tensors = hash_tensors({name: value for name, value in named.items() if isinstance(value, Tensor)})
    text = json.dumps([tensors, made.code, list(mean), list(std)])
    return hashlib.sha256(text.encode()).hexdigest()


def check_answers(net: nn.Module, x: Tensor, shape: Shape, reference: str) -> None:
    """Ask ``net`` about a few images x [N, C, H, W]. Raises UsageError unless it answers with logits [N, K], finite
    or not, for as many classes as the data set has."""
    import torch

    from ismn_cli.audit.exam import open_exam
    from ismn_cli.engine.modes import evaluating
    from ismn_cli.engine.rng import isolated

    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with isolated(0), evaluating(net):
        exam = open_exam(net, x, labels, reference, shape.classes)
    if exam.model is net and exam.answers.shape == (len(x), shape.classes):
        return
    if exam.shape == (len(x), shape.classes):
        raise UsageError(
            f"{reference} answers with whole numbers, not with logits.", "It should return the scores of all classes."
        )
    images = f"{shape.classes} classes for {shape.channels} x {shape.size} x {shape.size} pixels"
    raise UsageError(
        f"{reference} answers {len(x)} images with {list(exam.shape)}; the data set has {images}.",
        f"It should give logits [N, {shape.classes}]: is it of this data set? Its number of classes may be an argument,"
        f" such as --model-arg num_classes={shape.classes}",
    )


def model_options(choice: ModelChoice) -> str:
    """Return the options of a command line that name this model."""
    from shlex import join

    return join(choice.options())


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _check_normalisation(choice: ModelChoice, channels: int) -> None:
    if bool(choice.mean) != bool(choice.std):
        raise UsageError("--mean and --std belong together.", "Write both, such as --mean 0.5 --std 0.5.")
    for name, values in (("--mean", choice.mean), ("--std", choice.std)):
        if len(values) not in (0, 1, channels):
            raise UsageError(f"{name} has {len(values)} numbers for {channels} channels.", "Write one a channel.")
        if not all(0 <= value <= 1 for value in values) or (name == "--std" and 0 in values):
            raise UsageError(
                f"{name} {','.join(f'{value:g}' for value in values)} is not of pixels in [0, 1].",
                "Divide numbers of 0 to 255 by 255; a model that takes pixels of 0 to 255 has "
                "--mean 0 --std 0.0039216.",
            )
