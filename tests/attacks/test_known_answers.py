"""Toy systems whose robust accuracy is known beforehand: the attacks have to find it, no more and no less."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.averaged import Averaged
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_models.pipeline import Classify, Defence, Pipeline

SHAPE = (3, 4, 4)
PIXELS = 48


def craft(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, classes: int, seed: int = 0, **params: object
) -> Crafted:
    spec = resolve_params("pgd-ensemble", threat, params)
    return craft_batch(model, make_attack(spec, classes), x, y, threat, seed)


class Linear(nn.Module):
    """Logits W (x - 1/2), with W drawn at random."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(classes, PIXELS, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def images(n: int, seed: int = 1) -> Tensor:
    """Return images [n, ...] with all pixels within 0.2 of 1/2: no perturbation up to 0.3 meets the box."""
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("norm", "eps", "classes"),
    [(Norm.LINF, 0.006, 10), (Norm.L2, 0.03, 10), (Norm.LINF, 0.015, 2), (Norm.L2, 0.08, 2)],
)
def test_a_linear_classifier_has_exactly_this_robust_accuracy(norm: Norm, eps: float, classes: int) -> None:
    """Distance to class j: (z_y - z_j) over the dual norm of w_y - w_j, L1 for L-inf and L2 for L2."""
    model, x = Linear(classes), images(1000)
    y = model(x).argmax(1)
    between = model.weight[y][:, None] - model.weight[None]
    gap = model(x).gather(1, y[:, None]) - model(x)
    distance = gap / between.norm(p=1 if norm is Norm.LINF else 2, dim=2)
    distance[torch.arange(1000), y] = torch.inf
    exact = (distance.amin(1) > eps).float().mean()
    assert 0.2 < exact < 0.8
    crafted = craft(model, x, y, ThreatModel(norm=norm, eps=eps), classes)
    found = (model(crafted.adversarial).argmax(1) == y).float().mean()
    assert exact <= found <= exact + 0.005
    assert not crafted.failed.any()
    assert crafted.notes == ()


class Rounding(Defence):
    """Pixels rounded to five grey levels."""

    differentiable = False

    def reform(self, x: Tensor) -> Tensor:
        return (4 * x).round() / 4


def test_rounding_hides_gradients_and_bpda_finds_them() -> None:
    system, x = Pipeline(Linear(5), Rounding()), images(200)
    y = system(x).argmax(1)
    threat = ThreatModel(eps=0.3)
    plain = craft(system, x, y, threat, 5, random_start=False)
    assert torch.equal(system(plain.adversarial).argmax(1), y)
    assert any(note.startswith("zero gradient on 200 samples") for note in plain.notes)
    ((name, surrogate),) = system.surrogates().items()
    assert name == "bpda"
    through = craft(surrogate, x, y, threat, 5)
    assert not (system(through.adversarial).argmax(1) == y).any()
    assert through.notes == ()


class Noise(Defence):
    """Gaussian noise on every look."""

    randomised = True

    def reform(self, x: Tensor) -> Tensor:
        return x + 0.2 * torch.randn_like(x)


def errors(system: nn.Module, x: Tensor, y: Tensor, draws: int = 200) -> Tensor:
    """Return each sample's share of wrong answers over new draws, [N]."""
    torch.manual_seed(99)
    with torch.no_grad():
        return torch.stack([system(x).argmax(1) != y for _ in range(draws)]).float().mean(0)


@pytest.mark.parametrize("confidence", [0.0, 1e9])
def test_noise_takes_averages(confidence: float) -> None:
    """At the default a single reading may stop at a lucky draw; at 1e9 nothing stops, and gradients decide.

    Every group meets the same few draws of one seed: the gain is that of several.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 64), nn.Tanh(), nn.Linear(64, 5)).requires_grad_(False)
    system, x = Pipeline(net, Noise()), images(300)
    clean = torch.stack([errors(system, x, torch.full((300,), label)) for label in range(5)])
    y = clean.argmin(0)
    sure = clean.amin(0) < 0.2
    x, y = x[sure][:50], y[sure][:50]
    assert len(x) == 50
    ((_, surrogate),) = system.surrogates().items()
    threat = ThreatModel(eps=0.06)
    by_draws = {}
    for draws in (1, 20):
        model = surrogate if draws == 1 else Averaged(surrogate, draws)
        params = {"loss": "margin", "steps": 20, "confidence": confidence}
        found = [craft(model, x, y, threat, 5, seed, **params).adversarial for seed in range(4)]
        by_draws[draws] = torch.cat([errors(system, adversarial, y) for adversarial in found])
    assert by_draws[20].mean() > by_draws[1].mean() + 0.03
    # The majority of a sample's answers is wrong on more samples, too.
    assert (by_draws[20] > 0.5).sum() > (by_draws[1] > 0.5).sum() + 3


class BlindSpot(Defence):
    """Refuses images that look towards class 1 in the first ``seen`` pixels, and sees no other."""

    policy = "reject"

    def __init__(self, watched: Tensor, room: float) -> None:
        super().__init__()
        self.watched = watched
        self.threshold.fill_(room)

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return (x - 0.5).flatten(1) @ self.watched


def blind_spot(seen: int = 24, room: float = 0.05) -> tuple[Pipeline, Tensor]:
    """Return the system, and 100 images of class 0 on which its detector is silent, with a score of 0."""
    model = Linear(2)
    w = torch.randn(PIXELS, generator=torch.Generator().manual_seed(0))
    w[:seen] *= 2
    model.weight = torch.stack([-w, w])
    watched = torch.cat([w[:seen], torch.zeros(PIXELS - seen)])
    flat = (images(1000) - 0.5).flatten(1)
    flat = flat - ((flat @ watched) / watched.dot(watched))[:, None] * watched
    x = (0.5 + flat).view(-1, *SHAPE)
    return Pipeline(model, BlindSpot(watched, room)), x[model(x)[:, 1] < -0.3][:100]


def breakable(system: Pipeline, x: Tensor, eps: float) -> Tensor:
    """Return which images have an adversarial example that the detector passes: a linear programme each, bool [N]."""
    watched, room, w = system.defence.watched, float(system.defence.threshold), system.base.weight[1]
    found = []
    for flat in (x - 0.5).flatten(1):
        limit = [room - float(flat @ watched) - 1e-4]
        best = linprog(-w.numpy(), watched[None].numpy(), limit, bounds=[(-eps, eps)] * PIXELS)
        found.append(float(flat @ w) - best.fun > 1e-4)
    return torch.tensor(found)


@pytest.mark.parametrize(
    ("detector", "found"),
    [("selective", 1.0), ("orthogonal", 0.85), ("logit", 1.0), ("penalty", 1.0), ("ignore", 0.0), ("all", 1.0)],
)
def test_a_blind_spot_is_found(detector: str, found: float) -> None:
    """``found`` is the share of all that can be broken, where nothing is left to chance."""
    system, x = blind_spot()
    y, threat = torch.zeros(len(x), dtype=torch.int64), ThreatModel(eps=0.05)
    assert not system.decide(x).rejected.any()

    def broken(crafted: Crafted) -> Tensor:
        answer = system.decide(crafted.adversarial)
        return (answer.logits.argmax(1) == 1) & ~answer.rejected

    ((_, surrogate),) = system.surrogates().items()
    possible = breakable(system, x, threat.eps)
    assert 0.7 < possible.float().mean() < 0.95
    plain = craft_batch(surrogate, make_attack(resolve_params("pgd", threat, {}), 2), x, y, threat, 0)
    assert (system(plain.adversarial).argmax(1) == 1).all()
    assert not broken(plain).any(), "every one is refused"
    through = broken(craft(surrogate, x, y, threat, 2, detector=detector))
    assert not (through & ~possible).any()
    share = through.sum() / possible.sum()
    assert share >= found - 0.01 if found else share == 0
