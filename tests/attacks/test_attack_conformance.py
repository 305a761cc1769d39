"""What every attack owes the harness, whichever it is: run over the whole catalogue."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS, AttackEntry
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.ball import distances
from ismn_cli.engine.craft import Crafted, craft_batch

CLASSES = 5
CASES = [pytest.param(name, norm, id=f"{name}-{norm}") for name, e in ATTACKS.items() for norm in e.norms]
EPS = {Norm.LINF: 0.3, Norm.L2: 1.0}
QUICK = {
    "apgd": {"steps": 10},
    "apgdt": {"steps": 10},
    "fab": {"steps": 10},
    "square": {"n_queries": 300},
    "cw": {"c": 20},
    "spsa": {"nb_iter": 4, "nb_sample": 64},
    "deepfool": {"steps": 10},
    "autoattack": {"version": "custom", "attacks": "apgd-ce"},
    "cw-search": {"steps": 50, "search_steps": 3},
}
"""Fewer steps than the default where those take seconds; a c for C&W that suits this net."""
NOISES = ("gn", "uniform-noise", "gaussian-noise")
SHARE_LEFT = dict.fromkeys(NOISES, 1.0) | {"tpgd": 0.6, "square": 0.4, "uap": 0.3}
"""Of the samples, how many may survive if more than a tenth: noise is no attacker, TRADES' attack never sees
the label, 300 queries are few, and a universal perturbation leaves one of five classes."""


def attack_with(
    name: str, norm: Norm, net: nn.Module, x: Tensor, y: Tensor, seed: int = 1, eps: float | None = None
) -> Crafted:
    threat = ThreatModel(norm=norm, eps=EPS[norm] if eps is None else eps)
    attack = make_attack(resolve_params(name, threat, QUICK.get(name, {})), CLASSES)
    return craft_batch(net, attack, x, y, threat, seed)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_breaks_an_undefended_net_inside_the_ball(name: str, norm: Norm, victim) -> None:
    crafted = attack_with(name, norm, victim.net, victim.x, victim.y)
    adversarial = crafted.adversarial
    assert adversarial.shape == victim.x.shape
    assert adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    assert crafted.notes == ()
    assert not crafted.failed.any()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    linf, l2 = distances(adversarial, victim.x)
    assert (linf if norm is Norm.LINF else l2).max() <= EPS[norm] + 1e-5
    assert torch.equal(linf, crafted.linf)
    assert torch.equal(l2, crafted.l2)
    robust = (victim.net(adversarial).argmax(1) == victim.y).float().mean()
    assert robust <= SHARE_LEFT.get(name, 0.1)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_stays_inside_a_small_ball_too(name: str, norm: Norm, victim) -> None:
    eps = EPS[norm] / 50
    crafted = attack_with(name, norm, victim.net, victim.x[:4], victim.y[:4], eps=eps)
    assert (crafted.linf if norm is Norm.LINF else crafted.l2).max() <= eps + 1e-6
    assert not crafted.failed.any()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_leaves_everything_as_it_found_it(name: str, norm: Norm, victim) -> None:
    net = victim.net
    net.train()
    net[1].eval()  # a frozen batch norm in a net that trains
    net[0].bias.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x, y = victim.x[:3].clone(), victim.y[:3].clone()
    torch.manual_seed(4)
    expected = (torch.rand(2), np.random.RandomState(4).rand(2), random.Random(4).random())
    torch.manual_seed(4)
    np.random.seed(4)
    random.seed(4)
    try:
        attack_with(name, norm, net, x, y)
        assert torch.equal(torch.rand(2), expected[0])
        assert np.array_equal(np.random.rand(2), expected[1])
        assert random.random() == expected[2]
        assert [m.training for m in net] == [True, False, True, True, True, True]
        assert net.training
        assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
    finally:
        net[0].bias.requires_grad_(True)
        net.eval()
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(x, victim.x[:3])
    assert torch.equal(y, victim.y[:3])


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_one_image_none_and_images_already_wrong(name: str, norm: Norm, victim) -> None:
    one = attack_with(name, norm, victim.net, victim.x[:1], victim.y[:1])
    assert one.adversarial.shape == (1, 3, 8, 8)
    assert not one.failed.any()
    none = attack_with(name, norm, victim.net, victim.x[:0], victim.y[:0])
    assert none.adversarial.shape == (0, 3, 8, 8)
    assert (none.forwards, none.backwards, none.notes) == (0, 0, ())
    wrong = attack_with(name, norm, victim.net, victim.x[:2], (victim.y[:2] + 1) % CLASSES)
    assert not wrong.failed.any()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_same_seed_same_examples(name: str, norm: Norm, victim) -> None:
    x, y = victim.x[:3], victim.y[:3]
    first = attack_with(name, norm, victim.net, x, y, seed=7)
    torch.rand(17)
    again = attack_with(name, norm, victim.net, x, y, seed=7)
    assert torch.equal(first.adversarial, again.adversarial)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_memory_format_of_the_images_does_not_matter(name: str, norm: Norm, victim) -> None:
    """The harness works in channels-last, in which some of torchattacks' views are not possible."""
    x, y = victim.x[:3], victim.y[:3]
    plain = attack_with(name, norm, victim.net, x, y, seed=7)
    last = attack_with(name, norm, victim.net, x.to(memory_format=torch.channels_last), y, seed=7)
    assert not last.failed.any(), last.notes
    torch.testing.assert_close(last.adversarial, plain.adversarial)
    net = copy.deepcopy(victim.net).to(memory_format=torch.channels_last)
    assert not attack_with(name, norm, net, x, y, seed=7).failed.any()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_gradients_are_taken_only_where_the_catalogue_says_so(name: str, norm: Norm, victim) -> None:
    crafted = attack_with(name, norm, victim.net, victim.x[:2], victim.y[:2])
    entry: AttackEntry = ATTACKS[name]
    assert (crafted.backwards > 0) == entry.gradient
    assert (crafted.forwards > 0) == (name not in NOISES)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_net_without_parameters_is_attacked_quietly(
    name: str, norm: Norm, victim, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 20 * x[:, :, :, :CLASSES].mean((1, 2))

    x = victim.x[:2]
    crafted = attack_with(name, norm, Fixed(), x, Fixed()(x).argmax(1))
    assert not crafted.failed.any()
    assert capsys.readouterr().out == ""


def test_seeds_reach_attacks_that_seed_themselves(victim) -> None:
    """torchattacks' default seed of 0 would give every cell and every batch the same start."""
    for name in ("apgd", "square"):
        one, two = (attack_with(name, Norm.LINF, victim.net, victim.x, victim.y, seed=s) for s in (1, 2))
        assert not torch.equal(one.adversarial, two.adversarial), name
