"""What kind of images a system is built for. No torch here: the command line needs it before any model is built."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Classes to tell apart, channels, and pixels a side of square images; CIFAR-10's unless given."""

    classes: int = 10
    channels: int = 3
    size: int = 32
