"""The classifier hardened by LAD as a system: nothing stands before it."""

from __future__ import annotations

from torch import nn

from ismn_models.classifiers.hardened import build_hardened
from ismn_models.lad.config import LadConfig
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape


class Lad(Defence):
    """Does nothing to an image; it knows for which kind of images the generator is to be built."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape


def build(config: LadConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system beside ``base`` (a fresh Table 1 net where none is given)."""
    hardened = build_hardened(shape, base)
    return Pipeline(hardened.base, Lad(shape), hardened.classifier)
