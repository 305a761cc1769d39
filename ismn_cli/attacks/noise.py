"""Noise of the same size as an attack: the control that no defence may fail, and the starts of an ascent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import look, succeeded
from ismn_cli.core.specs import AttackSpec, Norm, ThreatModel
from ismn_cli.engine.ball import project


def own_generator() -> torch.Generator:
    """Return a generator seeded by one draw from the global one.

    What is drawn from it does not depend on how often the attacked model draws, nor on the device.
    """
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def normal(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise like x."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise like x, uniform in [-1, 1]."""
    return torch.rand(x.shape, generator=generator, dtype=x.dtype).mul_(2).sub_(1).to(x.device)


def sphere(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise like x, each sample's uniform on the unit sphere of L2."""
    return nn.functional.normalize(normal(x, generator).flatten(1), dim=1).view_as(x)


def uniform_start(x: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Return a point for each of x [N, ...] in [0, 1], drawn uniformly from its ball and clipped to the box."""
    if threat.norm is Norm.LINF:
        return project(x + threat.eps * uniform(x, generator), x, threat)
    radius = torch.rand(len(x), generator=generator).pow_(1 / max(1, x[0].numel())).to(x)
    return project(x + threat.eps * radius.view(-1, *[1] * (x.ndim - 1)) * sphere(x, generator), x, threat)


class _Noise(ABC):
    """Up to ``draws`` draws of noise for each sample: the first that succeeds is kept, or else the last.

    One draw asks the model nothing.
    """

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        self.threat = spec.threat
        self.params: dict[str, Any] = dict(spec.params)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return noisy images for x [N, C, H, W] in [0, 1] with labels y int64 [N]."""
        generator = own_generator()
        kept, alive = self._draw(x, generator), torch.arange(len(x), device=x.device)
        for _ in range(self.params["draws"] - 1):
            with torch.no_grad():
                alive = alive[~succeeded(look(model, kept[alive]), y[alive])]
            if not len(alive):
                break
            # For all, so that a sample's noise does not depend on the others' success.
            kept[alive] = self._draw(x, generator)[alive]
        return kept

    def _draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return project(x + self._noise(x, generator), x, self.threat)

    @abstractmethod
    def _noise(self, x: Tensor, generator: torch.Generator) -> Tensor: ...


class UniformNoise(_Noise):
    """Uniform in the L-inf ball, or with ``corners`` +-eps in every pixel, each with probability 1/2."""

    def _noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noise = uniform(x, generator)
        return self.threat.eps * (torch.where(noise < 0, -1.0, 1.0) if self.params["corners"] else noise)


class GaussianNoise(_Noise):
    """Gaussian noise of the threat's size, clipped to the box.

    L2: scaled to a length of eps. L-inf: of standard deviation eps/2, clipped to the ball: one pixel in 22 is.
    """

    def _noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        eps = self.threat.eps
        return eps * sphere(x, generator) if self.threat.norm is Norm.L2 else eps / 2 * normal(x, generator)
