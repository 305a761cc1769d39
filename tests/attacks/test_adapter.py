from __future__ import annotations

import gc
import weakref

import psutil
import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import AttackSpec, Norm, ThreatModel
from ismn_cli.engine.craft import craft_batch


def _signs(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(net(x), y), x)[0].sign()


def test_fgsm_is_equation_1(victim) -> None:
    threat = ThreatModel(eps=8 / 255)
    ours = make_attack(AttackSpec(method="fgsm", threat=threat), 5)(victim.net, victim.x, victim.y)
    expected = (victim.x + 8 / 255 * _signs(victim.net, victim.x, victim.y)).clamp(0, 1)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.3, 0.4])
def test_rfgsm_is_tramers(eps: float, victim) -> None:
    """x^ = clip(x + a sign(N(0, I))); x' = clip(x^ + (eps - a) sign(grad J(x^, y))), with a = eps/2."""
    threat = ThreatModel(eps=eps)
    attack = make_attack(AttackSpec(method="rfgsm", threat=threat), 5)
    torch.manual_seed(3)
    ours = attack(victim.net, victim.x, victim.y)

    torch.manual_seed(3)
    torch.randint(2**31 - 1, ())  # the adapter's own draw
    start = (victim.x + eps / 2 * torch.randn_like(victim.x).sign()).clamp(0, 1)
    expected = (start + (eps - eps / 2) * _signs(victim.net, start, victim.y)).clamp(0, 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_pgd_is_a_loop_of_projected_steps(victim) -> None:
    threat = ThreatModel(eps=0.05)
    spec = resolve_params("pgd", threat, {"steps": 4, "random_start": False})
    ours = make_attack(spec, 5)(victim.net, victim.x, victim.y)
    expected = victim.x
    for _ in range(4):
        moved = expected + 2.5 * 0.05 / 4 * _signs(victim.net, expected, victim.y)
        expected = (victim.x + (moved - victim.x).clamp(-0.05, 0.05)).clamp(0, 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_minimum_norm_attacks_give_the_clean_image_where_the_ball_is_too_small(victim) -> None:
    for method, params in {"cw": {"c": 20}, "deepfool": {}, "fab": {}, "eaden": {}}.items():
        for eps in (0.05, 1.0):
            threat = ThreatModel(norm=Norm.L2, eps=eps)
            attack = make_attack(resolve_params(method, threat, params), 5)
            crafted = craft_batch(victim.net, attack, victim.x, victim.y, threat, 0)
            assert torch.equal(crafted.adversarial, victim.x) == (eps == 0.05), method
            assert not crafted.failed.any()
            assert crafted.notes == ()


def test_nothing_moves_at_eps_zero(victim) -> None:
    for method in ("pgd", "apgd", "fgsm"):
        threat = ThreatModel(eps=0)
        crafted = craft_batch(
            victim.net, make_attack(resolve_params(method, threat, {}), 5), victim.x, victim.y, threat, 0
        )
        assert torch.equal(crafted.adversarial, victim.x)


@pytest.mark.parametrize(
    ("method", "others"),
    [
        ("apgd", "loss=ce."),
        ("upgd", "loss=ce, loss=margin."),
        ("pgd-ensemble", "loss=all, loss=ce, loss=scaled-ce, loss=margin, loss=targeted-margin."),
    ],
)
def test_a_loss_for_more_classes_is_refused_before_anything_runs(method: str, others: str) -> None:
    spec = resolve_params(method, ThreatModel(eps=0.1), {"loss": "dlr"})
    with pytest.raises(UsageError, match="loss=dlr needs at least 3 classes; there are 2") as caught:
        make_attack(spec, 2)
    assert caught.value.hint.endswith(others)
    make_attack(spec, 3)


@pytest.mark.parametrize("method", sorted(ATTACKS))
def test_one_class_is_refused_before_anything_runs(method: str) -> None:
    spec = resolve_params(method, ThreatModel(eps=0.1, norm=ATTACKS[method].norms[0]), {})
    with pytest.raises(UsageError, match="at least 2 classes; there are 1"):
        make_attack(spec, 1)


def test_attacks_written_for_colour_refuse_grey() -> None:
    threat = ThreatModel(eps=0.1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    attack = make_attack(AttackSpec(method="tifgsm", threat=threat), 3)
    with pytest.raises(UsageError, match="3 channels; these have 1"):
        craft_batch(net, attack, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), threat, 0)


def test_unknown_parameters_in_a_spec_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        make_attack(AttackSpec(method="pgd", threat=ThreatModel(eps=0.1), params={"stepz": 3}), 5)


def test_the_model_dies_with_its_attack() -> None:
    """Without waiting for the cycle collector: see `_contained`."""
    x, y, threat = torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), ThreatModel(eps=0.1)
    gc.collect()
    gc.disable()
    try:
        for method in ("fgsm", "pgd", "apgd", "square", "fab"):
            net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
            alive = weakref.ref(net)
            params = {"n_queries": 5} if method == "square" else {}
            craft_batch(net, make_attack(resolve_params(method, threat, params), 4), x, y, threat, 0)
            del net
            assert alive() is None, method
    finally:
        gc.enable()


def test_memory_is_flat_over_a_hundred_cells() -> None:
    """Each cell's model weighs 4 MB: kept alive they would make 400."""
    x, y, threat = torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), ThreatModel(eps=0.1)
    attack = make_attack(resolve_params("pgd", threat, {"steps": 1}), 4)
    process = psutil.Process()

    def cell() -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5000), nn.Linear(5000, 4))
        craft_batch(net, attack, x, y, threat, 0)

    gc.disable()
    try:
        for _ in range(10):
            cell()
        before = process.memory_info().rss
        for _ in range(100):
            cell()
        assert process.memory_info().rss - before < 60e6
    finally:
        gc.enable()


@pytest.mark.parametrize(("method", "norm"), [("cw", Norm.L2), ("eaden", Norm.L2), ("upgd", Norm.LINF)])
def test_margin_attacks_do_not_care_where_the_logits_lie(method: str, norm: Norm, victim) -> None:
    """torchattacks measures margins against 0: with all logits below it these attacks had no gradient."""

    class Shifted(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.net, self.by = victim.net, by

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.by

    params = {"cw": {"c": 20}, "eaden": {}, "upgd": {"loss": "margin"}}[method]
    threat = ThreatModel(norm=norm, eps=1.0 if norm is Norm.L2 else 0.3)
    attack = make_attack(resolve_params(method, threat, params), 5)
    for by in (0.0, -100.0):
        crafted = craft_batch(Shifted(by), attack, victim.x, victim.y, threat, 0)
        assert (victim.net(crafted.adversarial).argmax(1) == victim.y).float().mean() <= 0.1, by
