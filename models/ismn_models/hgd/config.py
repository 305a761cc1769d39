"""Settings of HGD. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen

Guidance = Literal["logits", "features", "pixels", "labels"]
Kind = Literal["noop", "noise", "fgsm", "ifgsm2", "ifgsm4"]


@dataclass(frozen=True)
class HgdConfig:
    """Net, losses and schedule are those of the paper's code (lfz/Guided-Denoise), which had 299x299 images.

    There the training attacks come from three classifiers and their ensemble, here from the base alone.
    """

    guidance: Guidance = "logits"
    """What is to be as on the clean image, in the mean absolute difference.

    logits: the classifier's logits (the paper's LGD). features: its last convolutional map (FGD).
    pixels: the image itself, with no guide (the paper's PGD).
    labels: not a difference, but the cross-entropy of the true labels (CGD).
    """
    maps: Annotated[int, Ge(1)] = 64
    """Of the finest scale; the second has two, the coarser ones four times as many."""

    epochs: Annotated[int, Ge(0)] = 30
    """The code's default is 100, with all attacks on every image in each."""
    batch_size: Annotated[int, Ge(2)] = 32
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam; a tenth after 60 % of the epochs, a hundredth after 90 %. The code's default is 0.01."""

    attacks: Annotated[tuple[Kind, ...], MinLen(1)] = ("noop", "noise", "fgsm", "ifgsm2", "ifgsm4")
    """One is drawn for each image: none, uniform noise, FGSM, FGSM iterated 2 or 4 times. What is named twice is
    drawn twice as often."""
    eps_max: Annotated[float, Interval(ge=1 / 255, le=1)] = 16 / 255
    """Each image's eps is a whole number of grey levels, uniform from 1 to this; pixels in [0, 1]."""
    refresh: Annotated[int, Ge(1)] = 5
    """Epochs for which attacked images are kept."""

    def grey_levels(self) -> int:
        """Return the largest eps in whole grey levels."""
        return int(self.eps_max * 255 + 1e-6)
