"""TRADES: loss and attack against the official code's, in other words; what it buys; killed and continued."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_systems import SmallNet, check_every_kill, images
from test_adversarial import Linear, planted
from torch import Tensor, nn

from ismn_models.adversarial.trades.config import TradesConfig
from ismn_models.adversarial.trades.system import build
from ismn_models.adversarial.trades.training import TradesTraining, divergence, stages
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

SMALL = TradesConfig(epochs=2, batch_size=8, steps=2, start="base")


def stage_of(config: TradesConfig = SMALL, seed: int = 0) -> TradesTraining:
    torch.manual_seed(seed)
    (stage,) = stages(build(config, Shape(3, 3), SmallNet(side=8)), config)
    assert isinstance(stage, TradesTraining)
    return stage


def official_kl(net: nn.Module, attacked: Tensor, clean: Tensor) -> Tensor:
    """Return the sum over the batch, as in yaodongyu/TRADES."""
    return nn.KLDivLoss(reduction="sum")(net(attacked).log_softmax(1), net(clean).softmax(1))


def official_attack(net: nn.Module, x: Tensor, step_size: float, epsilon: float, steps: int) -> Tensor:
    net.eval()
    attacked = x + 0.001 * torch.randn(x.shape)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(official_kl(net, attacked, x), [attacked])
        attacked = attacked.detach() + step_size * gradient.sign()
        attacked = torch.min(torch.max(attacked, x - epsilon), x + epsilon).clamp(0, 1)
    return attacked


def official_loss(net: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, beta: float) -> Tensor:
    net.train()
    natural = nn.functional.cross_entropy(net(x), y)
    return natural + beta * (1 / len(x)) * official_kl(net, attacked, x)


def test_defaults_are_the_papers() -> None:
    config = TradesConfig()
    assert (config.beta, config.eps, config.steps, config.attack_step_size()) == (6, 8 / 255, 10, 2 / 255)
    assert replace(config, step_size=0.007).attack_step_size() == 0.007


@pytest.mark.parametrize("steps", [1, 10])
def test_the_attack_is_the_official_codes(steps: int) -> None:
    stage, x = stage_of(replace(SMALL, eps=0.031, step_size=0.007, steps=steps)), images(9, side=8).floats()
    torch.manual_seed(4)
    got = stage.attack(x)
    torch.manual_seed(4)
    wanted = official_attack(stage.net, x, 0.007, 0.031, steps)
    assert (wanted - x).abs().max() > 0.005
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_the_loss_is_the_official_codes(beta: float) -> None:
    """With its gradients, and with what it leaves in the running statistics."""
    stage, other, data = stage_of(replace(SMALL, beta=beta)), stage_of(), images(9, side=8)
    x, y = data.floats(), data.labels
    attacked = (x + 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    stage.net.train()
    got, logits = stage.loss(x, attacked, y)
    wanted = official_loss(other.net, x, attacked, y, beta)
    torch.testing.assert_close(got, wanted)
    assert int(stage.net.norm.num_batches_tracked) == 3
    for (name, one), two in zip(stage.net.named_buffers(), other.net.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    torch.testing.assert_close(logits, other.net(x))
    got.backward()
    wanted.backward()
    for (name, one), two in zip(stage.net.named_parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-4, msg=name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(1e-3, 60))
def test_the_divergence_is_kullback_and_leiblers(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (scale * torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    wanted = (p.softmax(1) * (p.softmax(1).clamp_min(1e-300).log() - q.log_softmax(1))).sum(1)
    torch.testing.assert_close(divergence(p, q).double(), wanted, atol=1e-4, rtol=1e-4)
    assert (divergence(p, p) == 0).all()


def test_answers_that_are_certain_have_finite_gradients() -> None:
    logits = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    attacked = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
    divergence(logits, attacked).sum().backward()
    assert logits.grad is not None and attacked.grad is not None
    assert logits.grad.isfinite().all() and attacked.grad.isfinite().all()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 1), st.floats(0.001, 2), st.integers(1, 4), st.integers(0, 99))
def test_attacks_stay_in_ball_and_box(eps: float, step_size: float, steps: int, seed: int) -> None:
    stage = stage_of(replace(SMALL, eps=eps, step_size=step_size, steps=steps), seed)
    x = (images(5, seed, side=8).floats() * 1.4 - 0.2).clamp(0, 1)  # some pixels exactly black or white
    attacked = stage.attack(x)
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert (attacked - x).abs().max() <= eps + 1e-6


def test_half_precision_still_has_a_gradient() -> None:
    """Noise of 0.001 is below half a step of bfloat16 near 1: some of it must still be seen."""
    stage, x = stage_of(replace(SMALL, steps=10)), images(9, side=8).floats()
    with torch.autocast("cpu", torch.bfloat16):
        attacked = stage.attack(x)
    with torch.no_grad():
        gained = [divergence(stage.net.eval()(x), stage.net(a)).mean() for a in (attacked, stage.attack(x))]
    assert gained[0] > 0.5 * gained[1] > 0


def test_a_step_attacks_in_eval_mode_and_learns_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_models.training.flip_and_shift", lambda x, *_: x)
    stage, data = stage_of(), images(8, side=8)
    seen: list[Tensor] = []
    modes: list[bool] = []
    attack = stage.attack
    monkeypatch.setattr(stage, "attack", lambda x: (attack(x), seen.clear())[0])
    stage.net.register_forward_hook(lambda net, given, _: modes.append(net.training) or seen.append(given[0]))
    x = data.floats()
    stage.net.eval()
    stage.step(x, data.labels, torch.arange(8), 0.0)
    assert modes == [False] * (1 + SMALL.steps) + [True] * 3
    assert torch.equal(seen[0], x) and torch.equal(seen[2], x)
    assert 0 < (seen[1] - x).abs().max() <= SMALL.eps + 1e-6


def test_it_trades_accuracy_for_robustness(monkeypatch: pytest.MonkeyPatch) -> None:
    """With beta 0 the faint pixels win, and PGD takes all; with beta the strong one is left. See `planted`."""
    monkeypatch.setattr("ismn_models.training.flip_and_shift", lambda x, *_: x)
    data, measured = planted(), {}
    for beta in (0.0, 6.0):
        config = TradesConfig(epochs=10, batch_size=16, beta=beta)
        torch.manual_seed(0)
        (stage,) = stages(build(config, Shape(2, 3), Linear()), config)
        for epoch in range(10):
            stage.begin_epoch(epoch, data)
            for index in torch.randperm(128).split(16):
                stage.step(data.floats(index), data.labels[index], index, epoch / 10)
        measured[beta] = stage.finish(data, data)
    strong_pixel = ((data.pixels[:, 0, 0, 0] > 127) == (data.labels == 1)).float().mean().item()
    assert list(measured[0.0].values()) == [1.0, 0.0]
    assert measured[6.0]["validation accuracy, PGD-10"] == pytest.approx(strong_pixel)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, start="fresh")])
def test_killed_anywhere_and_continued(config: TradesConfig, tmp_path: Path) -> None:
    def make() -> tuple[Pipeline, list[Stage]]:
        system = build(config, Shape(3, 3), SmallNet(side=8))
        return system, stages(system, config)

    check_every_kill(make, tmp_path)
