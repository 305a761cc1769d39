"""Sparse activations by a moving bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.parallel import mean

MOMENTUM = 0.999


class RunningMeanSparsity(nn.Module):
    """The on-line rule of Stanford's CS294A notes, as DDSA uses it: a moving bias instead of a KL penalty.

    Each unit's running mean starts at 0 and follows mean <- 0.999 mean + 0.001 a, with a the batch's mean
    activation; after each gradient step its bias moves by -lr beta (mean - mu).
    """

    mean: Tensor

    def __init__(self, units: int, mu: float, beta: float) -> None:
        super().__init__()
        self.mu, self.beta = mu, beta
        self.register_buffer("mean", torch.zeros(units))

    @torch.no_grad()
    def apply_to(self, bias: Tensor, activation: Tensor, lr: float) -> None:
        """Take in ``activation`` [N, units] and move ``bias`` [units] in place."""
        self.mean.mul_(MOMENTUM).add_(mean(activation.float()), alpha=1 - MOMENTUM)
        bias.sub_(lr * self.beta * (self.mean - self.mu))
