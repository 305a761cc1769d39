"""A second classifier beside the base, hardened by its training: adversarial training, defensive distillation."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ismn_models.classifiers.config import HardenedConfig
from ismn_models.classifiers.nets import base_net
from ismn_models.images import Images
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.refusal import RefusalError
from ismn_models.shape import Shape
from ismn_models.training import Stage, decayed, descend, warmup_cosine

CLIP = 5.0
"""Largest norm of a step's gradient, as in the base's training."""


def build_hardened(shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return ``base`` (a fresh Table 1 net where none is given) and a copy of it that answers, to be hardened."""
    base = base_net(shape, base)
    return Pipeline(base, Defence(), copy.deepcopy(base).requires_grad_(True))


def initialise(net: nn.Module, base: nn.Module, start: Literal["fresh", "base"]) -> None:
    """Give ``net`` the weights of ``base``, or new ones.

    Raises RefusalError where new ones are wanted and a module with weights has no `reset_parameters`, nor has one
    that it is in.
    """
    if start == "base":
        net.load_state_dict(base.state_dict())
        return
    modules = list(net.modules())
    drawn = {part for module in modules if _resets(module) for part in module.modules()}
    for module in modules:
        if module not in drawn and any(True for _ in module.parameters(recurse=False)):
            raise RefusalError(
                f"The classifier has a {type(module).__name__}, which cannot draw new weights.",
                "Begin with the base classifier's: config.start=base.",
            )
    # The innermost modules first: what an outer one draws for them is the last word.
    for module in reversed(modules):
        if _resets(module):
            module.reset_parameters()  # type: ignore[operator]


def _resets(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None))


class Hardening(Stage):
    """SGD with Nesterov momentum on a pipeline's own classifier, on the base's schedule."""

    def __init__(self, pipeline: Pipeline, config: HardenedConfig, epochs: int) -> None:
        if pipeline.classifier is pipeline.base:
            raise TypeError("not a hardened pipeline: it answers with its base")
        self.net, self.base, self.start = pipeline.classifier, pipeline.base, config.start
        self.epochs, self.batch_size, self.lr = epochs, config.batch_size, config.lr
        groups = decayed(self.net, config.weight_decay)
        self.optimisers = (torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True),)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`. The weights to start from are taken here: the base may be trained just before."""
        if epoch == 0:
            initialise(self.net, self.base, self.start)

    def descend(self, loss: Tensor, progress: float) -> None:
        """Take one step down ``loss``."""
        descend(self.optimisers[0], loss, self.lr * warmup_cosine(progress), CLIP)
