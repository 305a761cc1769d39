"""Settings of the base classifier. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt


@dataclass(frozen=True)
class ClassifierConfig:
    """Table 1 trained on clean images."""

    padding: Literal["valid", "same"] = "valid"
    epochs: int = 60
    batch_size: int = 128
    lr: float = 0.05
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    temperature: float = 1.0
    """Divides the logits in the loss. Above 1 it scales the logits up by as much, which saturates the softmax
    and hides the gradient from cross-entropy attacks (Papernot 2016; broken by Carlini and Wagner 2017)."""


@dataclass(frozen=True)
class HardenedConfig:
    """What adversarial training and distillation share: a second classifier of the base's architecture.

    Learning rate and weight decay are the base's own.
    """

    start: Literal["fresh", "base"] = "fresh"
    """fresh: from new weights. base: from the base classifier's, which needs far fewer epochs."""
    batch_size: Annotated[int, Ge(2)] = 128
    lr: Annotated[float, Gt(0)] = 0.05
    weight_decay: Annotated[float, Ge(0)] = 5e-4
