"""The adversarially trained classifier as a system: nothing stands before it."""

from __future__ import annotations

from torch import nn

from ismn_models.adversarial.config import AdversarialConfig
from ismn_models.classifiers.hardened import build_hardened
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape


def build(config: AdversarialConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system beside ``base`` (a fresh Table 1 net where none is given)."""
    return build_hardened(shape, base)
