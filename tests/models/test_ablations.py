"""ISMN with a part taken out is the system that lacks it, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ismn_models.ismn import ablations
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.system import build
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape


class Tiny(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.out = nn.Linear(3 * 32 * 32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x.flatten(1))


@pytest.fixture
def system() -> Pipeline:
    """Half of the images are flagged, and no regeneration is ever good enough."""
    torch.manual_seed(0)
    pipeline = build(IsmnConfig(), Shape(4, 3), Tiny(1)).eval()
    pipeline.classifier.load_state_dict(Tiny(2).state_dict())
    # Untrained, the generator returns its input, and the detector has nothing to look at.
    with torch.no_grad():
        for weights in (*pipeline.defence.generator.parameters(), pipeline.defence.detector.suspicion.weight):
            weights.add_(0.1 * torch.randn_like(weights))
    pipeline.defence.threshold.copy_(pipeline.decide(images()).score.median())
    pipeline.defence.fixed_point.fill_(-1.0)
    return pipeline


def images() -> torch.Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_without_the_mapping_the_target_answers_alone(system: Pipeline) -> None:
    wanted = system.classifier(images())
    alone = ablations.no_mapping(system)
    decision = alone.decide(images())
    assert torch.equal(decision.logits, wanted) and not decision.flagged.any()
    assert alone.base is system.base


@torch.no_grad()
def test_without_the_target_the_base_answers(system: Pipeline) -> None:
    whole = system.decide(images())
    cleaned = ablations.no_target(system).decide(images())
    assert torch.equal(cleaned.flagged, whole.flagged) and whole.flagged.any() and not whole.flagged.all()
    straight = ~whole.flagged
    assert torch.allclose(cleaned.logits[straight], system.base(images())[straight])
    assert not torch.allclose(cleaned.logits, whole.logits)


@torch.no_grad()
def test_without_the_detector_every_input_is_regenerated(system: Pipeline) -> None:
    whole = system.decide(images())
    assert (whole.loops == 0).any()
    bare = ablations.no_detector(system)
    assert (bare.decide(images()).loops > 0).all()
    assert "clean-route" not in bare.surrogates()


@torch.no_grad()
def test_without_the_loop_there_is_one_regeneration(system: Pipeline) -> None:
    assert system.decide(images()).loops.max() > 1
    single = ablations.no_loop(system)
    decision = single.decide(images())
    assert decision.loops.max() == 1
    reformed = system.classifier(single.defence.reform(images()))
    assert torch.allclose(decision.logits[decision.flagged], reformed[decision.flagged], atol=1e-6)
    assert "unrolled" not in single.surrogates()


def test_only_ismn_has_these_parts() -> None:
    from ismn_models.magnet.config import MagnetConfig
    from ismn_models.magnet.system import build as build_magnet

    for alter in (ablations.no_detector, ablations.no_loop):
        with pytest.raises(TypeError):
            alter(build_magnet(MagnetConfig(), Shape(4, 3), Tiny(1)))
