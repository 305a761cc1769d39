"""Training of a plain classifier on clean images: the base network f_T."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ismn_models.classifiers.celebanet import load_imagenet
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.nets import base_net
from ismn_models.images import Images
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage, batch_for, decayed, descend, warmup_cosine

KERAS_DECAY = 1e-6
CLIP = 5.0
"""Largest norm of a step's gradient."""


def build(config: ClassifierConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the undefended system."""
    return Pipeline(base_net(shape, base, config), Defence())


def stages(pipeline: Pipeline, config: ClassifierConfig) -> list[Stage]:
    """Return the training schedule of the undefended system."""
    return [CleanTraining(pipeline.base, config)]


class CleanTraining(Stage):
    """SGD with Nesterov momentum on CE(z / temperature), flips and shifts."""

    name = "base"
    shareable = True

    def __init__(self, net: nn.Module, config: ClassifierConfig) -> None:
        self.net, self.config = net, config
        self.epochs, self.batch_size = config.epochs, config.batch_size
        groups = decayed(net, config.weight_decay)
        self.optimisers = (torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True),)
        self.steps = 0

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`. Weights from elsewhere are fetched here: a stored net is built without them."""
        if epoch == 0 and self.config.pretrained:
            load_imagenet(self.net)

    def factor(self, progress: float) -> float:
        """Return the learning rate's factor in [0, 1]."""
        return warmup_cosine(progress) if self.config.schedule == "cosine" else 1 / (1 + KERAS_DECAY * self.steps)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        lr = self.config.lr * self.factor(progress)
        self.steps += 1
        self.net.train()
        logits = self.net(self.augment(x, self.config.shift)).float()
        loss = nn.functional.cross_entropy(
            logits / self.config.temperature, y, label_smoothing=self.config.label_smoothing
        )
        descend(self.optimisers[0], loss, lr, CLIP)
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == y).float().mean().item()}

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """See `Stage.finish`."""
        self.net.eval()
        return {"validation accuracy": accuracy(self.net, validation)}

    def state(self) -> dict[str, Any]:
        """See `Stage.state`."""
        return super().state() | {"steps": self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Stage.load_state`."""
        super().load_state(state)
        self.steps = state["steps"]


def accuracy(net: nn.Module, images: Images) -> float:
    """Return the share of ``images`` that ``net`` labels right."""
    with torch.no_grad():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in images.batches(batch_for(images)))
    return right / max(len(images), 1)
