"""Settings of the controls. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval


@dataclass(frozen=True)
class JpegConfig:
    """Compress and decompress every input."""

    quality: Annotated[int, Interval(ge=1, le=95)] = 75
    """Pillow's scale."""


@dataclass(frozen=True)
class MedianConfig:
    """Median filter."""

    radius: Annotated[int, Ge(1)] = 1
    """The window is 2 radius + 1 pixels wide: 3x3 by default."""


@dataclass(frozen=True)
class SignDecoderConfig:
    """The untrained decoder of one-step attacks."""

    eps: Annotated[float, Gt(0)] | None = None
    """|perturbation| of every pixel. None: estimated for each image; where nothing fits, it passes unchanged.

    Told a value, the decoder subtracts it from clean images as well, and harms them.
    """
    rounds: Annotated[int, Ge(2)] = 20
