"""Settings of MagNet. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

Part = Literal["error", "jsd-10", "jsd-40", "reformer"]
"""What `off` can switch off, each alone, for ablation:

error            the detector on the mean absolute reconstruction error
jsd-10, jsd-40   the detectors on the divergence of the classifier's softened answers, at T = 10 and T = 40
reformer         no reforming: what passes the detectors is classified as it came
"""


@dataclass(frozen=True)
class MagnetConfig:
    """The CIFAR-10 set-up of the paper, as far as Carlini and Wagner's fork of the code documents it."""

    arch: Literal["improved", "paper"] = "improved"
    """improved: the author's later autoencoder, 11,139 weights. paper: three sigmoid layers, 252 weights."""
    off: tuple[Part, ...] = ()

    epochs: Annotated[int, Ge(0)] = 100
    """100 in Carlini and Wagner's fork; the paper has 400."""
    batch_size: Annotated[int, Ge(2)] = 256
    lr: Annotated[float, Gt(0)] = 1e-3
    noise: Annotated[float, Ge(0)] = 0.025
    """Standard deviation of the training noise, in pixel units; drawn once per image, not once per epoch."""
    activity_weight: Annotated[float, Ge(0)] = 1e-9
    """Of the squared outputs of every layer, summed over an image."""

    error_drop_rate: Annotated[float, Interval(ge=0, lt=1)] = 0.005
    """Share of clean validation images that the detector on the reconstruction error may reject."""
    jsd_drop_rate: Annotated[float, Interval(ge=0, lt=1)] = 0.01
    """The same for each detector on the divergence. The union is at most the sum."""

    def uses(self, part: Part) -> bool:
        """Whether ``part`` is switched on."""
        return part not in self.off
