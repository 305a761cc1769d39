"""What a MagNet is made of, as data: autoencoders by name, one of them the reformer, and detectors on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ismn_models.magnet.config import MagnetConfig, Part
from ismn_models.shape import Shape

Layer = int | Literal["average", "max"]
"""A 3x3 convolution to so many channels, or 2x2 pooling."""
Structure = tuple[Layer, ...] | Literal["improved"]
"""The encoder, which the decoder mirrors; improved: see `nets.autoencoder`."""
REFORMER = "autoencoder"
SECOND = "autoencoder_2"


@dataclass(frozen=True)
class Detector:
    """A mark on the reconstruction by one autoencoder, and how many clean images it may reject."""

    name: Part
    autoencoder: str
    kind: Literal["error", "divergence"]
    """error: mean of |x - AE(x)|^p. divergence: of the classifier's answers to x and AE(x), softened by T."""
    parameter: int
    """p or T."""
    drop_rate: float


@dataclass(frozen=True)
class Design:
    """The autoencoders by the names of their weights; `REFORMER` is the reformer."""

    autoencoders: dict[str, Structure]
    detectors: tuple[Detector, ...]
    """In the order of the thresholds, whether or not they are switched on."""
    noise: float
    """Standard deviation of the training noise, in pixel units."""


def design(config: MagnetConfig, shape: Shape) -> Design:
    """Return what ``config`` describes for images of ``shape``. Raises ValueError as `MagnetConfig.resolved` does."""
    found = config.resolved(shape)
    noise, error, jsd = (float(rate or 0) for rate in (found.noise, found.error_drop_rate, found.jsd_drop_rate))
    if found.setup == "mnist":
        # The authors' code has p = 2 on the first and p = 1 on the second; Carlini and Wagner's fork swaps them.
        squared = Detector("error-1", REFORMER, "error", 2, error)
        absolute = Detector("error-2", SECOND, "error", 1, error)
        return Design({REFORMER: (3, "average", 3), SECOND: (3,)}, (squared, absolute), noise)
    detectors = (
        Detector("error", REFORMER, "error", 1, error),
        Detector("jsd-10", REFORMER, "divergence", 10, jsd),
        Detector("jsd-40", REFORMER, "divergence", 40, jsd),
    )
    return Design({REFORMER: (3,) if found.arch == "paper" else "improved"}, detectors, noise)
