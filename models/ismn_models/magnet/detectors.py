"""MagNet's marks, and the thresholds on them. A mark grows with suspicion."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reconstruction_error(x: Tensor, rebuilt: Tensor, p: int = 1) -> Tensor:
    """Return the mean over an image of |x - rebuilt|^p, [N]; no p-th root (Trevillie/MagNet, AEDetector)."""
    return (x - rebuilt).abs().pow(p).flatten(1).mean(1)


def divergence(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the Jensen-Shannon divergence of two answers, [N] in [0, ln 2] (DBDetector).

    ``first`` and ``second`` are logits [N, K], both softened by ``temperature``.
    """
    log_p = (first.float() / temperature).log_softmax(1)
    log_q = (second.float() / temperature).log_softmax(1)
    # The mixture in log space: exp(-200) is zero in float32, and zero times infinity is not a number.
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    halves = log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)
    return (halves.sum(1) / 2).clamp(0, math.log(2))


def threshold_at(marks: Tensor, drop_rate: float) -> float:
    """Return the threshold at which int(N * drop_rate) of ``marks`` [N] are rejected, ties aside.

    An input passes when its mark is below the threshold. Where no mark may be rejected the threshold is
    infinite; the original code takes marks[-0] there, the smallest mark, and rejects everything.
    """
    rejected = int(len(marks) * drop_rate)
    if rejected == 0:
        return math.inf
    return float(marks.sort().values[-rejected])
