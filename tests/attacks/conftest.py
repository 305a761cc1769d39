from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

CLASSES = 5


@dataclass(frozen=True)
class Victim:
    """An undefended net that labels all of ``x`` right, on images that a small change carries over."""

    net: nn.Module
    x: Tensor
    y: Tensor


def separable(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images of five noisy patterns 1.1 apart in L2: a perturbation of 0.57 can change the class."""
    patterns = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    patterns = 0.8 * patterns / patterns.flatten(1).norm(dim=1)[:, None, None, None]
    y = torch.arange(n) % CLASSES
    x = 0.5 + patterns[y] + 0.03 * torch.randn(n, 3, 8, 8, generator=generator)
    return x.clamp(0, 1), y


def train(seed: int = 0) -> Victim:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    x, y = separable(400, generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(12 * 64, CLASSES),
        )
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(30):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    net.zero_grad(set_to_none=True)
    net.eval()
    x, y = separable(20, generator)
    return Victim(net, x, y)


@pytest.fixture(scope="session")
def victim() -> Victim:
    found = train()
    assert bool((found.net(found.x).argmax(1) == found.y).all()), "the fixture must start from full accuracy"
    return found
