"""ISMN as a system: base classifier, mapping network, detector and its own target classifier."""

from __future__ import annotations

import copy

from torch import nn

from ismn_models.classifiers.nets import base_net
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.defence import Ismn
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape


def build(config: IsmnConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given).

    The target classifier f_S has the base's architecture and starts from its weights. With "target" switched off
    the base itself answers.
    """
    base = base_net(shape, base)
    target = copy.deepcopy(base).requires_grad_(True) if config.uses("target") else None
    return Pipeline(base, Ismn(config, shape.size, shape.channels), target)
