"""Points around one image: inside its ball, on the ball's boundary, and in its corners."""

from __future__ import annotations

import torch
from torch import Tensor

from ismn_cli.attacks.noise import normal, uniform, uniform_start
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.ball import distances, project

INSIDE = 0.95
"""Inner points lie within this share of eps (Zimmermann et al. 2022)."""
_HALVINGS = 60
_FURTHEST = 1e6


def inside(x: Tensor, count: int, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Return the image x [C, H, W] itself and ``count`` - 1 points drawn uniformly from 0.95 of its ball."""
    smaller = threat.model_copy(update={"eps": INSIDE * threat.eps})
    return torch.cat([x[None], uniform_start(copies(x, count - 1), smaller, generator)])


def surface(x: Tensor, count: int, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Return ``count`` random points at a distance of eps from x [C, H, W], as `rescaled`."""
    origin = copies(x, count)
    noise = uniform(origin, generator) if threat.norm is Norm.LINF else normal(origin, generator)
    return rescaled(origin, noise, threat)


def corners(x: Tensor, count: int, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Return ``count`` random corners of the L-inf ball around x [C, H, W], clipped to the box; none in L2."""
    origin = copies(x, count if threat.norm is Norm.LINF else 0)
    return project(origin + threat.eps * uniform(origin, generator).sign(), origin, threat)


def rescaled(origin: Tensor, direction: Tensor, threat: ThreatModel) -> Tensor:
    """Return clip(origin + f direction) with the f that brings it to a distance of eps, or as far as the box lets it.

    ``origin`` [n, ...] in [0, 1]. The distance grows with f, so f is found by halving.
    """
    at = 0 if threat.norm is Norm.LINF else 1
    shape = (-1, *[1] * (origin.ndim - 1))
    low, high = (torch.full((len(origin),), f, dtype=torch.float64, device=origin.device) for f in (0.0, _FURTHEST))
    start, way = origin.double(), direction.double()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = distances((start + middle.view(shape) * way).clamp(0, 1), start)[at] >= threat.eps
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return project((start + high.view(shape) * way).clamp(0, 1).to(origin), origin, threat)


def copies(x: Tensor, count: int) -> Tensor:
    """Return ``count`` copies of the image x [C, H, W]."""
    return x[None].repeat(count, *[1] * x.ndim)
