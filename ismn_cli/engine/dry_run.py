"""One step of a training, and of an attack, on images that show nothing: what `ismn_cli.engine.memory` measures."""

from __future__ import annotations

import torch
from torch import nn

from ismn_cli.engine.fit import Precision
from ismn_cli.engine.modes import evaluating
from ismn_models.images import Images
from ismn_models.pipeline import Surrogate
from ismn_models.shape import Shape
from ismn_models.training import Stage

LOOKS = 2
"""Gradient steps of an attack: the second has the first one's images beside it, and no later one has more."""


def train_a_step(stage: Stage, shape: Shape, images: int, batch_size: int, precision: Precision) -> None:
    """Begin the first epoch of ``stage`` and the last, on so many ``images`` in all, and take a step in each.

    The training images themselves take no memory: they may be mapped from a file.
    """
    one = torch.zeros(1, shape.channels, shape.size, shape.size, dtype=torch.uint8)
    n = max(images, batch_size)
    train = Images(one.expand(n, -1, -1, -1), torch.zeros(n, dtype=torch.int64))
    index = torch.arange(batch_size)
    for epoch in sorted({0, stage.epochs - 1}):
        stage.begin_epoch(epoch, train)
        with precision():
            stage.step(train.floats(index), train.labels[index], index, epoch / stage.epochs)


def attack_a_step(view: nn.Module, shape: Shape, batch_size: int) -> None:
    """Take gradient steps on ``view``, which gives logits, as PGD does; forward only where it has no gradient."""
    clean = torch.zeros(batch_size, shape.channels, shape.size, shape.size)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    attacked = clean.clone()
    with evaluating(view, frozen=True):
        for _ in range(LOOKS):
            point = attacked.clone().requires_grad_()
            logits, margin = view.look(point) if isinstance(view, Surrogate) else (view(point), None)
            loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            loss = loss if margin is None else loss - margin.sum()
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss, point)
                attacked = (attacked + gradient.sign() / 255).clamp(0, 1)
