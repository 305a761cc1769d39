"""Universal perturbations to train on: some computed on a classifier, the others synthesised from those.

An attack for evaluation is another one: ``uap`` of the harness.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.parallel import drawn
from ismn_models.prn.config import Norm, PrnConfig

BATCH = 32
STEP = 0.2
"""The first step, as a share of eps; it falls linearly to zero."""
CAP = 9.0
"""Cross-entropy from which on an image pulls no more: it is fooled, and others are not (after Shafahi et al. 2018)."""
TINY = torch.finfo(torch.float32).tiny


class Ball(NamedTuple):
    """Perturbations [C, H, W] of at most ``eps``."""

    norm: Norm
    eps: float

    def length(self, delta: Tensor) -> Tensor:
        """Return the norm of a perturbation, []."""
        return delta.abs().amax() if self.norm == "linf" else delta.norm()

    def onto(self, delta: Tensor) -> Tensor:
        """Return ``delta`` scaled to a norm of eps; zero stays zero."""
        return delta * (self.eps / self.length(delta).clamp_min(TINY))

    def into(self, delta: Tensor) -> Tensor:
        """Return what is nearest to ``delta`` in the ball."""
        if self.norm == "linf":
            return delta.clamp(-self.eps, self.eps)
        return self.onto(delta) if self.length(delta) > self.eps else delta

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the step of size 1 that goes furthest along ``gradient``."""
        if self.norm == "linf":
            return gradient.sign()
        unit: Tensor = gradient / gradient.norm().clamp_min(TINY)
        return unit


def universal(net: nn.Module, images: Images, ball: Ball, passes: int) -> Tensor:
    """Return one perturbation [C, H, W] on the ball's surface that changes many answers of a frozen ``net``.

    Projected stochastic ascent on the mean cross-entropy, each image's cut at `CAP` (Shafahi et al. 2018), away from
    the net's own answers, from a random start. Moosavi-Dezfooli et al. 2017 go from image to image with DeepFool.
    """
    answers = _answers(net, images)
    delta = ball.onto(torch.randn_like(images.floats(slice(1))[0]))
    batches = [batch for _ in range(passes) for batch in torch.split(torch.randperm(len(images)), BATCH)]
    for done, batch in enumerate(batches):
        index = batch.to(images.labels.device)
        gradient = _gradient(net, images.floats(index), answers[index], delta)
        size = STEP * ball.eps * (1 - done / len(batches))
        delta = ball.into(delta + size * ball.steepest(gradient))
    return ball.onto(delta)


def _answers(net: nn.Module, images: Images) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(x).argmax(1) for x, _ in images.batches(BATCH)])


def _gradient(net: nn.Module, x: Tensor, answers: Tensor, delta: Tensor) -> Tensor:
    with torch.enable_grad():
        point = delta.detach().requires_grad_()
        logits = net((x + point).clamp(0, 1)).float()
        losses = nn.functional.cross_entropy(logits, answers, reduction="none").clamp_max(CAP)
        (gradient,) = torch.autograd.grad(losses.mean(), point)
    return gradient


def synthetic(seeds: Tensor, ball: Ball) -> Tensor:
    """Return a perturbation [C, H, W] made of ``seeds`` [S, C, H, W]: a random walk that ends on the ball's surface.

    Seeds drawn at random are added, each with a weight uniform in [0, 1), until the norm reaches eps.
    """
    walk = torch.zeros_like(seeds[0])
    while ball.length(walk) < ball.eps:
        walk = walk + float(torch.rand(())) * seeds[int(torch.randint(len(seeds), ()))]
    return ball.onto(walk)


def perturbations(net: nn.Module, train: Images, config: PrnConfig) -> Tensor:
    """Return the universal perturbations [P, C, H, W] that ``config`` asks for, computed on a frozen ``net``."""
    balls = [Ball(*size) for size in config.sizes()]
    found: list[Tensor] = []
    for number, ball in enumerate(balls):
        wanted, computed = (len(range(number, n, len(balls))) for n in (config.perturbations, config.seeds))
        subsets = [_draw(train, config.universal_images) for _ in range(computed)]
        seeds = torch.stack([universal(net, subset, ball, config.universal_passes) for subset in subsets])
        found += [seeds, *(synthetic(seeds, ball)[None] for _ in range(wanted - computed))]
    return torch.cat(found)


def _draw(train: Images, n: int) -> Images:
    return train.take(torch.randperm(len(train))[:n].to(train.labels.device))


def perturb(x: Tensor, deltas: Tensor, share: float = 1.0) -> Tensor:
    """Return x [N, C, H, W], each image with probability ``share`` perturbed by one of ``deltas`` [P, C, H, W]."""
    chosen = deltas[drawn(lambda n: torch.randint(len(deltas), (n,), device=x.device), len(x))]
    hit = drawn(lambda n: torch.rand(n, device=x.device), len(x)) < share
    return (x + chosen * hit[:, None, None, None]).clamp(0, 1)
