"""Models of the user's own: path/to/file.py:attr or package.module:attr, built, loaded and normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.references import called, form, load_attribute
from ismn_cli.stages.checkpoints import load_checkpoint

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class UserModel:
    """How to make a model: what a command line says of it."""

    reference: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Of each channel, or one number for all, in pixels of [0, 1]; both or neither."""


def load_user_model(wanted: UserModel, channels: int) -> nn.Module:
    """Return the model on the CPU, its checkpoint loaded, behind its normalisation for images of ``channels``.

    What ismn builds from a class is in evaluation mode; what a function or a module gives is as it was given.
    Raises UsageError: nothing there of that name, the user's code fails, the checkpoint does not fit.
    """
    from ismn_cli.engine.normalised import Normalised

    _check_normalisation(wanted, channels)
    model = _built(load_attribute(wanted.reference), wanted)
    if wanted.checkpoint is not None:
        load_checkpoint(model, wanted.checkpoint)
    return Normalised(model, wanted.mean, wanted.std) if wanted.mean else model


def _built(found: Any, wanted: UserModel) -> nn.Module:
    from torch import nn

    model: Any = found
    if isinstance(model, nn.Module):
        if wanted.arguments:
            raise UsageError(
                f"{wanted.reference} is a model already: --model-arg would change nothing.",
                "Leave --model-arg away, or name the class.",
            )
        return model
    if not callable(found):
        raise UsageError(f"{wanted.reference} is a {type(found).__name__}, not a model.", form("model"))
    model = called(wanted.reference, found, wanted.arguments, "--model-arg")
    if not isinstance(model, nn.Module):
        raise UsageError(f"{wanted.reference} gives a {type(model).__name__}, not a torch module.", form("model"))
    if isinstance(found, type):
        model.eval()
    return model


def _check_normalisation(wanted: UserModel, channels: int) -> None:
    if bool(wanted.mean) != bool(wanted.std):
        raise UsageError("--mean and --std belong together.", "Write both, such as --mean 0.5 --std 0.5.")
    for name, values in (("--mean", wanted.mean), ("--std", wanted.std)):
        if len(values) not in (0, 1, channels):
            raise UsageError(f"{name} has {len(values)} numbers for {channels} channels.", "Write one a channel.")
        if not all(0 <= value <= 1 for value in values) or (name == "--std" and 0 in values):
            raise UsageError(
                f"{name} {','.join(f'{value:g}' for value in values)} is not of pixels in [0, 1].",
                "Divide numbers of 0 to 255 by 255; a model that takes pixels of 0 to 255 has "
                "--mean 0 --std 0.0039216.",
            )
