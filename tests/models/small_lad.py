"""LAD in small: settings of a moment, its stages around a small net, and toys in which everything is known."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from small_systems import SmallNet
from torch import Tensor, nn

from ismn_models.lad.config import LadConfig
from ismn_models.lad.system import build
from ismn_models.lad.training import BoundaryStage, GeneratorStage, HardeningStage, stages
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

SMALL = LadConfig(
    epochs=2,
    batch_size=8,
    per_class=5,
    generator_epochs=2,
    generator_batch_size=8,
    width=16,
    svm_images=6,
    svm_epochs=2,
    eps_max=2.0,
)
SEEDS = st.integers(0, 2**32 - 1)


def make(config: LadConfig = SMALL, base: nn.Module | None = None) -> tuple[Pipeline, list[Stage]]:
    system = build(config, Shape(3, 3, 8), base or SmallNet(side=8))
    return system, stages(system, config)


def three(config: LadConfig = SMALL) -> tuple[Pipeline, GeneratorStage, BoundaryStage, HardeningStage]:
    torch.manual_seed(0)
    system, (generator, edge, hardening) = make(config)
    assert isinstance(generator, GeneratorStage)
    assert isinstance(edge, BoundaryStage) and isinstance(hardening, HardeningStage)
    return system.eval(), generator, edge, hardening


class Flat(nn.Module):
    """A linear classifier of 3x2x2 images, whose latents are their pixels."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.out = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.out(x.flatten(1))
        return torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z


class Decoder(nn.Module):
    """Inverts `Flat`'s latents."""

    def forward(self, z: Tensor) -> Tensor:
        return z.unflatten(1, (3, 2, 2)).clamp(0, 1)
