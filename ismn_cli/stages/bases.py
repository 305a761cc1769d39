"""What a system stands on: a base classifier, pinned; one of the user's own is made again from what names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.stages.user_models import load_user_model, model_options
from ismn_cli.stages.weights import Header

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Base:
    """A base classifier, what pins it, its settings, and where it comes from."""

    net: nn.Module
    weights: str
    """The hash of its tensors; of one of the user's own its pin, which is over code and normalisation too."""
    config: dict[str, JsonValue]
    origin: str
    model: ModelChoice | None = None
    """What it is made from, where it is one of the user's own."""
    differentiable: bool = True
    """Whether gradients come back from its logits."""


def remade(header: Header, origin: str) -> nn.Module:
    """Return the user's own base classifier of a trained system again. Raises UsageError where it is another now."""
    if header.model is None:
        raise TypeError("a base classifier of ismn's own")
    try:
        made = load_user_model(header.model, header.channels)
    except UsageError as error:
        raise UsageError(f"{origin} stands on a model that is not here: {error.message}", error.hint) from error
    if made.pin != header.base:
        raise UsageError(
            f"{origin} stands on {header.model.reference} as it was: its code, weights or normalisation have "
            "changed since.",
            f"Put them back, or train again: ismn train --system {header.system} {model_options(header.model)}",
        )
    return made.net
