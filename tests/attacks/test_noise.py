from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.noise import Streams, uniform_start
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import craft_batch
from ismn_models.pipeline import Reading, Surrogate

EPS = 0.1
def apart(x: Tensor) -> Tensor:
    """Return x [N, ...] with no two images alike: an image's draws are told by what is in it."""
    return x + torch.arange(len(x)).view(-1, 1, 1, 1) * 1e-7


GREY = apart(torch.full((8, 3, 16, 16), 0.5))
LABELS = torch.zeros(8, dtype=torch.int64)


class Brightness(nn.Module):
    """Wrong (class 1) where the mean of an image is above ``level``."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        over = x.mean((1, 2, 3)) - self.level
        return torch.stack([-over, over], 1)


def noise(method: str, norm: Norm = Norm.LINF, x: Tensor = GREY, **params: object) -> Tensor:
    threat = ThreatModel(norm=norm, eps=EPS)
    attack = make_attack(resolve_params(method, threat, params), 2)
    torch.manual_seed(0)
    return attack(Brightness(2.0), x, LABELS[: len(x)]) - x


def test_uniform_noise_is_uniform() -> None:
    delta = noise("uniform-noise").flatten()
    assert stats.kstest(delta.numpy(), stats.uniform(-EPS, 2 * EPS).cdf).pvalue > 0.01


def test_corners_are_fair_coins() -> None:
    delta = noise("uniform-noise", corners=True).flatten()
    assert set(delta.abs().mul(1e6).round().tolist()) == {EPS * 1e6}
    assert stats.binomtest(int((delta > 0).sum()), len(delta)).pvalue > 0.01


def test_gaussian_noise_has_the_size_of_the_threat() -> None:
    assert torch.allclose(noise("gaussian-noise", Norm.L2).flatten(1).norm(dim=1), torch.tensor(EPS))
    delta = noise("gaussian-noise").flatten()
    assert delta.abs().max() <= EPS + 1e-6
    clipped = float((delta.abs() > EPS - 1e-6).float().mean())
    assert clipped == pytest.approx(2 * stats.norm.sf(2), abs=0.01)
    # E min(|z|, 2)^2 in closed form.
    variance = 1 - 2 * (2 * stats.norm.pdf(2) + stats.norm.sf(2)) + 8 * stats.norm.sf(2)
    assert delta.square().mean().sqrt() == pytest.approx(EPS / 2 * math.sqrt(variance), rel=0.03)


@pytest.mark.parametrize("method", ["uniform-noise", "gaussian-noise"])
def test_one_draw_asks_nothing_and_more_stop_at_success(method: str) -> None:
    x = apart(GREY.repeat(8, 1, 1, 1))
    y = LABELS.repeat(8)
    threat = ThreatModel(eps=EPS)
    level = 0.5 + 1e-3  # a draw succeeds now and then

    def craft(draws: int) -> tuple[Tensor, int]:
        attack = make_attack(resolve_params(method, threat, {"draws": draws}), 2)
        crafted = craft_batch(Brightness(level), attack, x, y, threat, seed=3)
        return crafted.adversarial, crafted.forwards

    by_draws = {draws: craft(draws) for draws in (1, 2, 3, 6)}
    assert by_draws[1][1] == 0
    wrong = {draws: Brightness(level)(images).argmax(1) == 1 for draws, (images, _) in by_draws.items()}
    assert 0 < wrong[1].sum() < wrong[2].sum() < wrong[6].sum() < len(x)
    # A success is kept, and asked about no more.
    assert torch.equal(by_draws[6][0][wrong[1]], by_draws[1][0][wrong[1]])
    assert torch.equal(by_draws[6][0][wrong[3]], by_draws[3][0][wrong[3]])
    # Every draw is new for those that still hold.
    assert not (by_draws[2][0] == by_draws[1][0])[~wrong[1]].flatten(1).all(1).any()
    assert by_draws[2][1] == len(x)
    assert by_draws[3][1] == len(x) + int((~wrong[1]).sum())


def test_a_samples_draws_do_not_depend_on_the_others() -> None:
    threat = ThreatModel(eps=EPS)
    attack = make_attack(resolve_params("uniform-noise", threat, {"draws": 5}), 2)
    all_hold = craft_batch(Brightness(2.0), attack, GREY, LABELS, threat, 1).adversarial
    some_fall = craft_batch(Brightness(2.0), attack, GREY, (torch.arange(8) > 3).long(), threat, 1).adversarial
    assert torch.equal(all_hold[:4], some_fall[:4])
    assert not torch.equal(all_hold[4:], some_fall[4:])


def test_a_flagged_draw_is_no_success() -> None:
    wrong = Brightness(0.0)
    threat = ThreatModel(eps=EPS)
    attack = make_attack(resolve_params("uniform-noise", threat, {"draws": 4}), 2)
    for sign, forwards in ((1, 3 * 8), (-1, 8)):
        counted = Counted(Surrogate(wrong, lambda x, s=sign: Reading(wrong(x), s * torch.ones(len(x)))))
        attack(counted, GREY, LABELS)
        assert counted.forwards == forwards


@pytest.mark.parametrize("norm", list(Norm))
def test_starts_are_uniform_in_the_ball(norm: Norm) -> None:
    torch.manual_seed(0)
    x = apart(torch.full((2000, 1, 2, 2), 0.5))
    delta = (uniform_start(x, ThreatModel(norm=norm, eps=EPS), Streams(x)) - x).flatten(1)
    if norm is Norm.L2:
        radius = delta.norm(dim=1)
        assert radius.max() <= EPS + 1e-6
        # The share of the ball's volume within a radius is r^d.
        assert stats.kstest(((radius / EPS) ** 4).numpy(), stats.uniform.cdf).pvalue > 0.01
    else:
        assert stats.kstest(delta.flatten().numpy(), stats.uniform(-EPS, 2 * EPS).cdf).pvalue > 0.01
    assert delta.mean(0).abs().max() < 5e-3


def test_starts_keep_to_the_box() -> None:
    x = torch.ones(50, 1, 2, 2)
    start = uniform_start(x, ThreatModel(eps=EPS), Streams(x))
    assert start.max() <= 1 and start.min() >= 1 - EPS
