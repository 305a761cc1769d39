from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.carlini_wagner import Settings
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.ball import distances
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import Attack, craft_batch
from ismn_models.pipeline import Reading, Surrogate

PIXELS = 192


def threat(eps: float) -> ThreatModel:
    return ThreatModel(norm=Norm.L2, eps=eps)


def search(eps: float = 1.0, classes: int = 2, **params: object) -> Attack:
    return make_attack(resolve_params("cw-search", threat(eps), params), classes)


class Linear(nn.Module):
    """Class 1 where w . (x - 1/2) > 0, in two classes; float64 inside."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = torch.randn(PIXELS, generator=generator, dtype=torch.float64)
        self.scale = scale

    def score(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1).double() @ self.w

    def forward(self, x: Tensor) -> Tensor:
        z = self.scale * self.score(x)
        return torch.stack([torch.zeros_like(z), z], 1)

    def at(self, distance: Tensor) -> Tensor:
        """Return images of class 0 so far from the boundary in L2, all pixels far from 0 and 1."""
        noise = 0.1 * (torch.rand(len(distance), PIXELS, dtype=torch.float64) - 0.5)
        normal = self.w / self.w.norm()
        noise = noise - (noise @ normal)[:, None] * normal
        return (0.5 + noise - distance[:, None] * normal).view(-1, 3, 8, 8).float()


def test_settings_are_those_of_the_catalogue() -> None:
    assert [f.name for f in dataclasses.fields(Settings)] == list(ATTACKS["cw-search"].defaults)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_distance_to_a_plane(scale: float) -> None:
    """Minimal L2 distance |w . x + b| / |w|, whatever the scale of the logits."""
    torch.manual_seed(0)
    model, expected = Linear(scale), torch.linspace(0.02, 0.98, 12, dtype=torch.float64)
    x, y = model.at(expected), torch.zeros(12, dtype=torch.int64)
    crafted = craft_batch(model, search(), x, y, threat(1.0), 0)
    assert (model(crafted.adversarial).argmax(1) == 1).all()
    excess = crafted.l2 / expected - 1
    assert excess.min() > -1e-5
    assert excess.max() < 0.02


def boxed_distance(model: Linear, x: Tensor) -> Tensor:
    """Return the exact distance to the plane inside the box, by bisection over the length of a clipped step."""
    start, steps = x.flatten(1).double(), model.w
    low, high = (torch.full((len(x), 1), v, dtype=torch.float64) for v in (0.0, 1e3))
    for _ in range(80):
        middle = (low + high) / 2
        crossed = (((start + middle * steps).clamp(0, 1) - 0.5) @ model.w >= 0)[:, None]
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    return ((start + high * steps).clamp(0, 1) - start).norm(dim=1)


def test_pixels_at_zero_and_one_move() -> None:
    """Four pixels in five sit on the box, and the exact distance counts on them."""
    torch.manual_seed(1)
    model, x = Linear(), (torch.rand(100, 3, 8, 8) < 0.5).float()
    x = torch.where(torch.rand(x.shape) < 0.2, torch.rand(x.shape), x)
    expected = boxed_distance(model, x)
    chosen = (model.score(x) < 0) & (expected > 0.2) & (expected < 0.95)
    x, expected = x[chosen][:12], expected[chosen][:12]
    crafted = search()(model, x, torch.zeros(12, dtype=torch.int64)).images
    assert (model.score(crafted) > 0).all()
    moved = (crafted - x).flatten(1)
    excess = moved.norm(dim=1) / expected - 1
    assert excess.min() > -1e-5
    assert excess.max() < 0.05
    assert (moved[((x == 0) | (x == 1)).flatten(1)].abs() > 1e-3).float().mean() > 0.3


def test_eps_decides() -> None:
    torch.manual_seed(0)
    model, at = Linear(), torch.tensor([0.1, 0.39, 0.41, 0.9], dtype=torch.float64)
    x, y = model.at(at), torch.zeros(4, dtype=torch.int64)
    crafted = craft_batch(model, search(eps=0.4), x, y, threat(0.4), 0)
    assert model(crafted.adversarial).argmax(1).tolist() == [1, 1, 0, 0]
    assert torch.equal(crafted.adversarial[2:], x[2:])
    assert not crafted.failed.any()
    assert torch.equal(search(eps=0.0)(model, x, y).images, x)


def test_what_is_wrong_already_costs_one_look() -> None:
    counted = Counted(Linear())
    x = counted.model.at(torch.tensor([-0.1, -0.5], dtype=torch.float64))
    found = search()(counted, x, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(found.images, x)
    assert (counted.forwards, counted.backwards) == (2, 0)


def net(classes: int = 4, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 24), nn.Tanh(), nn.Linear(24, classes))
    return layers.double().requires_grad_(False)


def test_a_samples_result_does_not_depend_on_the_others() -> None:
    """In float64, where the order of a sum leaves no trace."""
    model = net()
    x = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    attack = search(classes=4, steps=30)
    together = attack(model, x, y).images
    assert (together != x).flatten(1).any(1).any()
    others_fall = torch.where(torch.arange(6) < 3, y, (y + 1) % 4)
    torch.testing.assert_close(attack(model, x, others_fall).images[:3], together[:3], rtol=0, atol=1e-9)
    for i in (0, 4):
        alone = attack(model, x[i : i + 1], y[i : i + 1]).images
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-9)


def test_a_sample_broken_within_eps_may_leave_at_once() -> None:
    model = net()
    x = torch.rand(8, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    eps, counts, broken = 0.9, {}, {}
    for minimise in (True, False):
        counted = Counted(model)
        images = search(eps, 4, minimise=minimise)(counted, x, y).images
        counts[minimise], broken[minimise] = counted.forwards, model(images).argmax(1) != y
        assert distances(images, x)[1].max() <= eps
    assert torch.equal(broken[True], broken[False])
    assert broken[True].any()
    assert counts[False] < counts[True] / 5
    # The whole search is 6 steps of 150 looks.
    assert counts[True] < 8 * 6 * 150


def test_what_cannot_be_broken_keeps_nobody() -> None:
    torch.manual_seed(0)
    counted = Counted(Linear())
    x = counted.model.at(torch.tensor([0.05, 0.1, 0.15, 2.0], dtype=torch.float64))
    search(0.4, minimise=False)(counted, x, torch.zeros(4, dtype=torch.int64))
    alone = 6 * 150
    assert alone < counted.forwards < 1.5 * alone


def test_as_near_as_another_attack_for_the_minimum(victim) -> None:
    x, y = victim.x, victim.y
    lengths = {}
    for name in ("cw-search", "fab"):
        attack = make_attack(resolve_params(name, threat(1.0), {}), 5)
        crafted = craft_batch(victim.net, attack, x, y, threat(1.0), 0)
        assert (victim.net(crafted.adversarial).argmax(1) != y).all()
        lengths[name] = crafted.l2
    assert (lengths["cw-search"] / lengths["fab"]).mean() < 1.02
    assert (lengths["cw-search"] / lengths["fab"]).max() < 1.2


def corner(a: Tensor, b: Tensor, need: float, limit: float) -> float:
    """Return the least |d| with a . d >= need and b . d <= limit: the nearest point of two half-spaces."""
    alone = a * need / a.dot(a)
    if b.dot(alone) <= limit:
        return float(alone.norm())
    gram = torch.stack([torch.stack([a.dot(a), a.dot(b)]), torch.stack([a.dot(b), b.dot(b)])])
    weights = torch.linalg.solve(gram, torch.tensor([need, limit], dtype=a.dtype))
    return float((weights[0] * a + weights[1] * b).norm())


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_the_distance_past_a_detector(unit: float) -> None:
    """A linear classifier behind a linear detector: the nearest point of two half-spaces, in closed form."""
    torch.manual_seed(4)
    model = Linear()
    # The detector looks along much of what the classifier looks along.
    watched = 0.8 * model.w + 0.6 * torch.randn(PIXELS, dtype=torch.float64)
    room = 0.3

    def read(x: Tensor) -> Reading:
        return Reading(model(x), unit * ((x - clean[: len(x)]).flatten(1).double() @ watched - room))

    clean = model.at(torch.tensor([0.3], dtype=torch.float64))
    surrogate = Surrogate(model, read)
    y = torch.zeros(1, dtype=torch.int64)
    need = -float(model.score(clean)[0])
    expected = corner(model.w, watched, need, room)
    assert expected > 1.2 * need / model.w.norm(), "the detector must be in the way"
    crafted = craft_batch(surrogate, search(steps=400), clean, y, threat(1.0), 0)
    logits, guard = surrogate.look(crafted.adversarial)
    assert logits.argmax(1) == 1
    assert guard < 0
    assert float(crafted.l2[0]) == pytest.approx(expected, rel=0.05)


def test_gradients_that_are_missing_are_told() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Linear()(x.detach())

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Linear()((4 * x).round() / 4)

    x, y = Linear().at(torch.tensor([0.3, 0.4], dtype=torch.float64)), torch.zeros(2, dtype=torch.int64)
    crafted = craft_batch(Opaque(), search(), x, y, threat(1.0), 0)
    assert crafted.failed.all()
    assert "gradient" in crafted.notes[0]
    crafted = craft_batch(Rounded(), search(), x, y, threat(1.0), 0)
    assert not crafted.failed.any()
    assert crafted.notes == ("zero gradient on 2 samples (cw-search)",)
