from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.ball import TOLERANCE, allowed, distances, project

THREATS = st.builds(ThreatModel, norm=st.sampled_from(Norm), eps=st.floats(0, 1))
SEEDS = st.integers(0, 10_000)


def _pair(seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 4, 4, generator=generator)
    # A third of the pixels sit on the edges of the box.
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.3, x.round(), x)
    return x + spread * torch.randn(x.shape, generator=generator), x


def _distance(a: Tensor, b: Tensor, threat: ThreatModel) -> Tensor:
    return distances(a, b)[0 if threat.norm is Norm.LINF else 1]


@settings(deadline=None)
@given(THREATS, SEEDS, st.floats(1e-4, 3))
def test_projection_lands_in_the_ball_and_the_box(threat: ThreatModel, seed: int, spread: float) -> None:
    candidate, x = _pair(seed, spread)
    projected = project(candidate, x, threat)
    assert float(projected.min()) >= 0
    assert float(projected.max()) <= 1
    assert float(_distance(projected, x, threat).max()) <= threat.eps + 1e-6
    assert bool(allowed(projected, x, threat).all())


@settings(deadline=None)
@given(THREATS, SEEDS)
def test_projecting_what_is_inside_changes_no_bit(threat: ThreatModel, seed: int) -> None:
    candidate, x = _pair(seed)
    inside = x + (candidate.clamp(0, 1) - x) * (0.4 * threat.eps / 8)
    assert torch.equal(project(inside, x, threat), inside)


@settings(deadline=None)
@given(st.floats(0.01, 1), SEEDS)
def test_l_inf_projection_is_the_nearest_point(eps: float, seed: int) -> None:
    """Pixel by pixel, against the interval written out."""
    candidate, x = _pair(seed)
    projected = project(candidate, x, ThreatModel(eps=eps))
    for p, c, centre in zip(projected.flatten(), candidate.flatten(), x.flatten(), strict=True):
        low, high = max(0.0, float(centre) - eps), min(1.0, float(centre) + eps)
        assert abs(float(p) - min(max(float(c), low), high)) < 1e-6


def test_distances_by_hand() -> None:
    a = torch.tensor([[3.0, -4.0], [0.0, 1.0]]).view(2, 1, 1, 2)
    linf, l2 = distances(a, torch.zeros_like(a))
    assert linf.tolist() == [4.0, 1.0]
    assert l2.tolist() == [5.0, 1.0]


def test_allowed_knows_rounding_from_violation() -> None:
    x = torch.full((5, 1, 2, 2), 0.5)
    shift = torch.tensor([0.1, 0.1 + TOLERANCE / 2, 0.1 + 2 * TOLERANCE, float("nan"), 0.0])
    candidate = x + shift[:, None, None, None]
    assert allowed(candidate, x, ThreatModel(eps=0.1)).tolist() == [True, True, False, False, True]
    # In L2 all four pixels add up: 2 x 0.1.
    assert allowed(candidate, x, ThreatModel(norm=Norm.L2, eps=0.1)).tolist() == [False] * 4 + [True]


def test_leaving_the_box_is_not_allowed_however_large_the_ball() -> None:
    x = torch.full((1, 1, 1, 1), 0.9)
    assert allowed(x + 0.2, x, ThreatModel(eps=1.0)).tolist() == [False]
