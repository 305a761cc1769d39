"""Settings of diverse MagNet. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from ismn_models.magnet.config import MagnetConfig


@dataclass(frozen=True)
class DiverseConfig(MagnetConfig):
    """Plain MagNet's settings; the pack as in Carlini and Wagner's fork of the code."""

    setup: Literal["cifar10"] = "cifar10"
    """On images of any kind: a pack is of one autoencoder each, and the paper has packs on CIFAR-10 only."""
    batch_size: Annotated[int, Ge(2)] = 128
    pack: Annotated[int, Ge(1)] = 8
    """How many autoencoders."""
    diversity: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """Weight of the autoencoders' distance from their mean; from 1 on the loss would reward any distance."""
    alone_epochs: Annotated[int, Ge(0)] = 3
    """Epochs before the joint ones in which each autoencoder is trained by itself."""
