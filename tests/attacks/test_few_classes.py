"""Two and three classes: every attack works there, and finds what a linear classifier's closed form says there is."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.attacks.objectives import ce, margin
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.craft import Crafted, craft_batch

SHAPE, PIXELS = (3, 6, 6), 108
EPS = {Norm.LINF: 0.06, Norm.L2: 0.5}
QUICK = {
    "apgd": {"steps": 20},
    "apgdt": {"steps": 20},
    "fab": {"steps": 20},
    "square": {"n_queries": 500},
    "cw": {"c": 20},
    "spsa": {"nb_iter": 5, "nb_sample": 64},
    "autoattack": {"version": "custom", "attacks": "apgd-ce+apgd-dlr+apgd-t+fab+fab-t"},
    "cw-search": {"steps": 40, "search_steps": 3},
}
NOTED = {
    ("apgdt", 2): ("classes: 2 are too few for the targeted DLR loss; its margin alone stands in",),
    ("apgdt", 3): ("classes: 3 are too few for the targeted DLR loss; its margin alone stands in",),
    ("autoattack", 2): (
        "autoattack: classes: 2 are too few for the DLR loss of apgd-dlr and apgd-t; its margin alone stands in",
    ),
    ("autoattack", 3): ("autoattack: classes: 3 are too few for the DLR loss of apgd-t; its margin alone stands in",),
}
"""What is said, by the attack and the classes; nothing by any other."""


def patterns(classes: int) -> Tensor:
    """Return smooth ones: tifgsm blurs its gradients."""
    coarse = torch.randn(classes, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    drawn = nn.functional.interpolate(coarse - coarse.mean(0), scale_factor=3)
    return 2.0 * drawn / drawn.flatten(1).norm(dim=1)[:, None, None, None]


def blends(classes: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images of which every other is a faint one: the boundary is near it, and far from the rest."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) // 2 % classes
    strength = torch.where(torch.arange(n) % 2 == 0, 0.15, 1.0)[:, None, None, None]
    noise = 0.01 * torch.randn(n, *SHAPE, generator=generator)
    return (0.5 + strength * patterns(classes)[y] + noise).clamp(0, 1), y


@cache
def victim(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net of so many classes that has learnt them, and twelve images that it labels right."""
    x, y = blends(classes, 240, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, classes))
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    net.zero_grad(set_to_none=True)
    x, y = blends(classes, 12, 1)
    assert bool((net(x).argmax(1) == y).all())
    return net.eval(), x, y


def attacked(
    name: str, threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor, classes: int, **params: object
) -> Crafted:
    return craft_batch(net, make_attack(resolve_params(name, threat, params), classes), x, y, threat, seed=0)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name, entry in ATTACKS.items() for norm in entry.norms])
def test_every_attack_works_on_few_classes(name: str, norm: Norm, classes: int) -> None:
    """To the end: some samples fall, and some are left for whatever comes after a first success."""
    net, x, y = victim(classes)
    crafted = attacked(name, ThreatModel(norm=norm, eps=EPS[norm]), net, x, y, classes, **QUICK.get(name, {}))
    assert not crafted.failed.any(), crafted.notes
    assert crafted.notes == NOTED.get((name, classes), ())
    right = net(crafted.adversarial).argmax(1) == y
    assert bool(right.any()), "none was left: the test is too easy"
    if ATTACKS[name].expects is not None:
        assert not right.all()


class OneLogit(nn.Module):
    """Class 1 where z = w . (x - 1/2) + b > 0: two logits that differ by z, the first of them ``first`` of z."""

    def __init__(self, seed: int, scale: float, first: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", scale * torch.randn(PIXELS, generator=generator))
        self.register_buffer("bias", scale * 0.1 * torch.randn((), generator=generator))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        z = (x - 0.5).flatten(1) @ self.weight + self.bias
        return torch.stack([self.first * z, (1 + self.first) * z], 1)


SURE: dict[str, tuple[float, dict[str, object]]] = {
    "pgd": (0.98, {"steps": 20}),
    "apgd": (0.98, {}),
    "apgdt": (0.98, {}),
    "pgd-ensemble": (0.98, {}),
    "autoattack": (0.98, {"version": "custom", "attacks": "apgd-ce+apgd-t+fab-t"}),
    "fab": (0.98, {}),
    "square": (0.3, {"n_queries": 2000}),
}
"""Name -> up to what share of eps a boundary has to be found, and with what. Square asks for answers only."""


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.01, 1.0]),
    first=st.sampled_from([0.0, -0.5, -1.0]),
)
@pytest.mark.parametrize("name", SURE)
def test_two_classes_break_exactly_where_the_boundary_is_near(
    name: str, seed: int, scale: float, first: float
) -> None:
    """The distance in L-inf to the plane w . x = c is |z| over the L1 norm of w."""
    net = OneLogit(seed, scale, first)
    x = 0.5 + 0.1 * (2 * torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(seed)) - 1)
    z = net(x)[:, 1] - net(x)[:, 0]
    y = (z > 0).long()
    distance = z.abs() / net.weight.abs().sum()
    eps = min(float(distance.median()), 0.3)  # the box is 0.4 away
    share, params = SURE[name]
    crafted = attacked(name, ThreatModel(eps=eps), net, x, y, 2, **params)
    broken = net(crafted.adversarial).argmax(1) != y
    assert not crafted.failed.any(), crafted.notes
    assert not broken[distance > 1.001 * eps].any()
    assert broken[distance < share * eps].all()


class Probabilities(OneLogit):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def test_autoattack_still_knows_two_probabilities() -> None:
    net, x, threat = Probabilities(1, 1.0, 0.0), torch.rand(6, *SHAPE), ThreatModel(eps=1e-4)
    crafted = attacked("autoattack", threat, net, x, net(x).argmax(1), 2, version="custom", attacks="apgd-ce")
    assert [note for note in crafted.notes if note.startswith("autoattack: probabilities")]


class Noisy(OneLogit):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1e-3 * torch.randn_like(x))


@pytest.mark.parametrize("first", [0.0, -0.5])
def test_autoattack_sees_draws_behind_zero_and_z(first: float) -> None:
    """It compares logits at unit length, at which [0, z] and [-z, z] are the same for every z of one sign."""
    x, threat = 0.5 + 0.1 * torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)), ThreatModel(eps=1e-4)
    for net in (OneLogit(1, 1.0, first), Noisy(1, 1.0, first)):
        y = OneLogit(1, 1.0, first)(x).argmax(1)
        crafted = attacked("autoattack", threat, net, x, y, 2, version="custom", attacks="apgd-ce")
        said = [note for note in crafted.notes if note.startswith("autoattack: randomised")]
        assert bool(said) == isinstance(net, Noisy)


@given(z=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8), data=st.data())
def test_zero_and_z_are_the_sigmoid(z: list[float], data: st.DataObject) -> None:
    one = torch.tensor(z)
    y = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=len(z), max_size=len(z))))
    two = torch.stack([torch.zeros_like(one), one], 1)
    wanted = binary_cross_entropy_with_logits(one, y.float(), reduction="none")
    torch.testing.assert_close(ce(two, y), wanted)
    torch.testing.assert_close(two.softmax(1)[:, 1], one.sigmoid())
    assert torch.equal(margin(two, y), torch.where(y == 1, -one, one))
