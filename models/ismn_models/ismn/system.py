"""ISMN as a system: base classifier, mapping network, detector and its own target classifier."""

from __future__ import annotations

import copy

from torch import nn

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.training import build as build_classifier
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.defence import Ismn
from ismn_models.pipeline import Pipeline


def build(
    config: IsmnConfig, num_classes: int, channels: int, base: nn.Module | None = None, size: int = 32
) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given).

    The target classifier f_S has the base's architecture and starts from its weights. With "target" switched off
    the base itself answers.
    """
    if base is None:
        base = build_classifier(ClassifierConfig(), num_classes, channels).base
    target = copy.deepcopy(base).requires_grad_(True) if config.uses("target") else None
    return Pipeline(base, Ismn(config, size, channels), target)
