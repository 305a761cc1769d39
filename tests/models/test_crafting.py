"""Training attacks against plain references; balls and boxes; the bank keeps, forgets and resumes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_models.crafting import AttackBank, ascend, evaluating, fgsm, pgd, rfgsm
from ismn_models.images import Images


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 5)
    )


def batch(n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.randint(0, 5, (n,), generator=generator)


def gradient_sign(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    net.eval()
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(net(x), y).backward()
    assert x.grad is not None
    return x.grad.sign()


def test_fgsm_equals_the_reference() -> None:
    net, (x, y) = small_net(), batch()
    eps = torch.linspace(0, 0.5, len(x))
    wanted = (x + eps[:, None, None, None] * gradient_sign(net, x, y)).clamp(0, 1)
    assert torch.equal(fgsm(net, x, y, eps), wanted)


def test_rfgsm_equals_the_reference() -> None:
    net, (x, y) = small_net(), batch()
    torch.manual_seed(5)
    start = (x + 0.1 * torch.randn_like(x).sign()).clamp(0, 1)
    wanted = (start + 0.2 * gradient_sign(net, start, y)).clamp(0, 1)
    torch.manual_seed(5)
    assert torch.allclose(rfgsm(net, x, y, 0.3, 0.1), wanted)


@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_equals_the_reference(random_start: bool) -> None:
    net, (x, y) = small_net(), batch()
    torch.manual_seed(5)
    wanted = (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1) if random_start else x
    for _ in range(4):
        wanted = wanted + 0.04 * gradient_sign(net, wanted, y)
        wanted = (x + (wanted - x).clamp(-0.1, 0.1)).clamp(0, 1)
    torch.manual_seed(5)
    assert torch.allclose(pgd(net, x, y, 0.1, 4, 0.04, random_start), wanted, atol=1e-6)


def test_pgd_without_steps_is_a_copy() -> None:
    x, y = batch()
    result = pgd(small_net(), x, y, 0.1, 0, 0.1, random_start=False)
    assert torch.equal(result, x)
    assert result.data_ptr() != x.data_ptr()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1), st.integers(1, 4), st.integers(0, 99))
def test_attacks_stay_in_ball_and_box(sizes: list[float], share: float, steps: int, seed: int) -> None:
    net, (x, y) = small_net(), batch(4, seed)
    x = (x * 1.4 - 0.2).clamp(0, 1)  # some pixels exactly black or white
    eps = torch.tensor(sizes)
    made = [fgsm(net, x, y, eps), rfgsm(net, x, y, eps, share * eps), pgd(net, x, y, eps, steps, 2 * eps)]
    for adversarial in made:
        assert adversarial.shape == x.shape
        assert ((adversarial >= 0) & (adversarial <= 1)).all()
        assert ((adversarial - x).abs().amax((1, 2, 3)) <= eps + 1e-6).all()


def test_attacks_raise_the_loss() -> None:
    net, (x, _) = small_net().eval(), batch(16)
    y = net(x).argmax(1)
    losses = [
        nn.functional.cross_entropy(net(z), y).item() for z in (x, fgsm(net, x, y, 0.1), pgd(net, x, y, 0.1, 10, 0.025))
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[1]


def test_the_net_is_left_as_it_was() -> None:
    net, (x, y) = small_net().train(), batch()
    net[1].eval()  # a mixed mode has to come back mixed
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        pgd(net, x, y, 0.1, 2, 0.05)
    assert [module.training for module in net] == [True, False, True, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not x.requires_grad


def test_mode_comes_back_after_an_error() -> None:
    net = small_net().train()
    with pytest.raises(RuntimeError), evaluating(net):
        raise RuntimeError
    assert all(module.training for module in net.modules())


def test_half_precision_still_has_a_gradient() -> None:
    net, (x, _) = small_net().eval(), batch()
    y = net(x).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        moved = (fgsm(net, x, y, 0.1) != x).float().mean()
    assert moved > 0.9


def test_ascend_gives_each_sample_its_own_gradient() -> None:
    target = torch.tensor([0.2, 0.8])[:, None]
    direction = ascend(lambda p: (p - target).square(), torch.full((2, 3), 0.5))
    assert direction.tolist() == [[1.0] * 3, [-1.0] * 3]


class Maker:
    """Crafts black images with eps 0.25 and remembers for which positions it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(positions.tolist())
        return torch.rand(len(positions), 3, 2, 2), 0.25 * (1 + positions)


def bank_for(n: int) -> AttackBank:
    bank = AttackBank()
    bank.reserve(Images(torch.zeros(n, 3, 2, 2, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)))
    return bank


def test_bank_crafts_only_what_is_missing() -> None:
    bank, make = bank_for(10), Maker()
    first, eps = bank.lookup(torch.tensor([7, 2]), make)
    again, eps_again = bank.lookup(torch.tensor([2, 5, 7]), make)
    bank.lookup(torch.tensor([5, 7, 2]), make)
    assert make.asked == [[0, 1], [1]]
    assert torch.equal(again[[2, 0]], first)
    assert eps_again.tolist() == [0.5, 0.5, 0.25]
    assert eps.tolist() == [0.25, 0.5]
    assert len(bank) == 3


def test_bank_rounds_to_grey_levels() -> None:
    wanted = torch.rand(4, 3, 2, 2)
    kept, _ = bank_for(4).lookup(torch.arange(4), lambda p: (wanted[p], torch.ones(len(p))))
    assert ((kept - wanted).abs() <= 0.5 / 255 + 1e-6).all()
    assert torch.allclose((kept * 255).round(), kept * 255, atol=1e-4)


def test_cleared_bank_crafts_again() -> None:
    bank, make = bank_for(4), Maker()
    bank.lookup(torch.tensor([0, 1]), make)
    bank.clear()
    bank.lookup(torch.tensor([1]), make)
    assert make.asked == [[0, 1], [0]]


def test_bank_resumes_from_its_state() -> None:
    bank, make = bank_for(6), Maker()
    kept, eps = bank.lookup(torch.tensor([1, 4]), make)
    saved = {name: value.clone() for name, value in bank.state().items()}
    resumed = AttackBank()
    resumed.load_state(bank.state())
    resumed.reserve(Images(torch.zeros(6, 3, 2, 2, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)))
    again, eps_again = resumed.lookup(torch.tensor([1, 4]), make)
    assert make.asked == [[0, 1]]
    assert torch.equal(again, kept)
    assert torch.equal(eps_again, eps)
    resumed.lookup(torch.tensor([0]), make)
    assert all(torch.equal(saved[name], value) for name, value in bank.state().items())
