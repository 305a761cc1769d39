"""Noise of the same size as an attack: the control that no defence may fail, and the starts of an ascent."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import look, succeeded
from ismn_cli.core.specs import AttackSpec, Norm, ThreatModel
from ismn_cli.engine.ball import project


class Streams:
    """A stream of random numbers for each image, by what is in it: its draws do not depend on the other images.

    Nor on how often the attacked model draws, or on the device.
    """

    def __init__(self, x: Tensor) -> None:
        """Begin the streams of x [N, ...]; one draw from the global generator tells runs apart."""
        run = int(torch.randint(2**62, ()))
        self.generators = [torch.Generator().manual_seed(_seed(run, image)) for image in x.cpu()]


def _seed(run: int, image: Tensor) -> int:
    digest = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
    return (run + int.from_bytes(digest[:8], "big")) % 2**63


Source = torch.Generator | Streams


def normal(x: Tensor, source: Source) -> Tensor:
    """Return standard normal noise like x [N, ...]."""
    return _drawn(torch.randn, x, source)


def uniform(x: Tensor, source: Source) -> Tensor:
    """Return noise like x [N, ...], uniform in [-1, 1]."""
    return _drawn(torch.rand, x, source).mul_(2).sub_(1)


def sphere(x: Tensor, source: Source) -> Tensor:
    """Return noise like x, each sample's uniform on the unit sphere of L2."""
    return nn.functional.normalize(normal(x, source).flatten(1), dim=1).view_as(x)


def uniform_start(x: Tensor, threat: ThreatModel, source: Source) -> Tensor:
    """Return a point for each of x [N, ...] in [0, 1], drawn uniformly from its ball and clipped to the box."""
    if threat.norm is Norm.LINF:
        return project(x + threat.eps * uniform(x, source), x, threat)
    ones = [1] * (x.ndim - 1)
    radius = _drawn(torch.rand, x.new_empty(len(x), *ones), source).pow_(1 / max(1, x[:1].numel()))
    return project(x + threat.eps * radius * sphere(x, source), x, threat)


def _drawn(draw: Callable[..., Tensor], x: Tensor, source: Source) -> Tensor:
    if isinstance(source, torch.Generator):
        return draw(x.shape, generator=source, dtype=x.dtype).to(x.device)
    rows = [draw(x.shape[1:], generator=generator, dtype=x.dtype) for generator in source.generators]
    return torch.stack(rows).to(x.device) if rows else torch.empty_like(x)


class _Noise(ABC):
    """Up to ``draws`` draws of noise for each sample: the first that succeeds is kept, or else the last.

    One draw asks the model nothing.
    """

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        self.threat = spec.threat
        self.params: dict[str, Any] = dict(spec.params)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return noisy images for x [N, C, H, W] in [0, 1] with labels y int64 [N]."""
        streams = Streams(x)
        kept, alive = self._draw(x, streams), torch.arange(len(x), device=x.device)
        for _ in range(self.params["draws"] - 1):
            with torch.no_grad():
                alive = alive[~succeeded(look(model, kept[alive]), y[alive])]
            if not len(alive):
                break
            # For all, so that a sample's noise does not depend on the others' success.
            kept[alive] = self._draw(x, streams)[alive]
        return kept

    def _draw(self, x: Tensor, source: Source) -> Tensor:
        return project(x + self._noise(x, source), x, self.threat)

    @abstractmethod
    def _noise(self, x: Tensor, source: Source) -> Tensor: ...


class UniformNoise(_Noise):
    """Uniform in the L-inf ball, or with ``corners`` +-eps in every pixel, each with probability 1/2."""

    def _noise(self, x: Tensor, source: Source) -> Tensor:
        noise = uniform(x, source)
        return self.threat.eps * (torch.where(noise < 0, -1.0, 1.0) if self.params["corners"] else noise)


class GaussianNoise(_Noise):
    """Gaussian noise of the threat's size, clipped to the box.

    L2: scaled to a length of eps. L-inf: of standard deviation eps/2, clipped to the ball: one pixel in 22 is.
    """

    def _noise(self, x: Tensor, source: Source) -> Tensor:
        eps = self.threat.eps
        return eps * sphere(x, source) if self.threat.norm is Norm.L2 else eps / 2 * normal(x, source)
