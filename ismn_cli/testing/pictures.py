"""Images to ask with, and a classifier that is smooth everywhere. Pixels in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.shape import Shape

CIFAR10 = Shape()


def pictures(shape: Shape, count: int, seed: int = 0) -> Tensor:
    """Return smooth noisy images, float32 [N, C, S, S]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, shape.channels, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=shape.size, mode="bilinear")
    noisy = smooth + 0.05 * torch.randn(smooth.shape, generator=generator)
    return ((noisy.clamp(0, 1) * 255).round() / 255).contiguous()


def corners(shape: Shape, seed: int = 0) -> Tensor:
    """Return a black image, a white one, and two of black and white pixels, [4, C, S, S]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, shape.channels, shape.size, shape.size, generator=generator).round()
    flat = torch.stack([torch.zeros_like(noise[0]), torch.ones_like(noise[0])])
    return torch.cat([flat, noise])


class Smooth(nn.Module):
    """A classifier of random weights whose gradient vanishes nowhere."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(shape.channels, 6, 3, stride=2, padding=1)
            self.out = nn.Linear(6 * 16, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K] of x [N, C, S, S]."""
        seen = self.conv(4 * x - 2).tanh()
        logits: Tensor = 3 * self.out(nn.functional.adaptive_avg_pool2d(seen, 4).flatten(1))
        return logits
