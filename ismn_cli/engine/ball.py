"""The set of allowed perturbations: distances, and projection onto the ball and the box of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ismn_cli.core.specs import Norm, ThreatModel

TOLERANCE = 1e-4
"""Pixels by which rounding may carry an image out of the ball or the box; more is a violation."""


def distances(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the L-inf and the L2 distance [N] between images a and b [N, ...]."""
    difference = (a - b).flatten(1)
    return difference.abs().amax(1), difference.norm(dim=1)


def allowed(candidate: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return bool [N]: the image keeps to the ball around x and to the box, rounding aside. NaN does not."""
    linf, l2 = distances(candidate, x)
    distance = linf if threat.norm is Norm.LINF else l2
    pixels = candidate.flatten(1)
    in_box = (pixels.amin(1) >= -TOLERANCE) & (pixels.amax(1) <= 1 + TOLERANCE)
    return in_box & (distance <= threat.eps + TOLERANCE)


def project(candidate: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return the images nearest to ``candidate`` [N, ...] in the ball around x [N, ...], clipped to the box.

    What lies inside already comes back bit for bit: it may stand a rounding error away from a decision
    boundary. In L2 the perturbation is scaled down; clipping to the box only brings it nearer to x.
    """
    if threat.norm is Norm.LINF:
        return torch.minimum(torch.maximum(candidate, x - threat.eps), x + threat.eps).clamp_(0, 1)
    delta = candidate - x
    length = delta.flatten(1).norm(dim=1).view(-1, *[1] * (delta.ndim - 1))
    scaled = x + delta * (threat.eps / length.clamp_min(torch.finfo(delta.dtype).tiny))
    return torch.where(length > threat.eps, scaled, candidate).clamp_(0, 1)
