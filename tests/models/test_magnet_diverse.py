"""Diverse MagNet: the pack's loss and training, the draw, and the expectation over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_systems import SmallNet, check_every_kill, images, small_system, train
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings
from ismn_models.magnet.config import MagnetConfig
from ismn_models.magnet.diverse.config import DiverseConfig
from ismn_models.magnet.diverse.system import DiverseMagnet, build
from ismn_models.magnet.diverse.training import AloneStage, TogetherStage, spread, stages
from ismn_models.magnet.system import Magnet
from ismn_models.magnet.system import build as build_plain
from ismn_models.magnet.training import stages as plain_stages
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

SMALL = DiverseConfig(pack=3, epochs=2, alone_epochs=1, batch_size=8, lr=1e-2)


def diverse(seed: int = 0) -> tuple[DiverseMagnet, nn.Module]:
    system = small_system("magnet-diverse", seed)
    assert isinstance(system.defence, DiverseMagnet)
    return system.defence, system.base


def member(defence: DiverseMagnet, number: int) -> Magnet:
    """Return the plain MagNet that the pack is for an image that draws ``number``."""
    plain = Magnet(replace(MagnetConfig(), arch=defence.config.arch), Shape()).eval()
    plain.autoencoder = defence.autoencoders_used()[number]
    plain.thresholds.copy_(defence.thresholds[number])
    return plain


def test_a_decision_is_that_of_the_plain_system_of_each_draw() -> None:
    defence, base = diverse()
    x = images(40).floats()
    torch.manual_seed(5)
    pick = defence.draw(x)
    torch.manual_seed(5)
    decision = defence.decide(x, base)
    assert set(pick.tolist()) == {0, 1, 2}
    for number in range(3):
        own, wanted = pick == number, member(defence, number).decide(x, base)
        torch.testing.assert_close(decision.logits[own], wanted.logits[own], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decision.score[own], wanted.score[own], atol=1e-5, rtol=1e-4)
        assert torch.equal(decision.flagged[own], wanted.flagged[own])
    assert 0 < decision.rejected.sum() < len(x)


def test_each_image_is_drawn_for_by_itself_and_evenly() -> None:
    defence, _ = diverse()
    torch.manual_seed(0)
    drawn = defence.draw(torch.zeros(6000, 3, 1, 1))
    counts = drawn.bincount(minlength=3)
    assert (counts - 2000).abs().max() < 6 * (6000 * 2 / 9) ** 0.5
    repeats = (drawn[1:] == drawn[:-1]).float().mean().item()
    assert repeats == pytest.approx(1 / 3, abs=0.05)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_pack_is_the_expectation_over_the_draw(seed: int) -> None:
    defence, base = diverse(seed)
    x = images(20, seed + 1).floats()
    decisions = [member(defence, number).decide(x, base) for number in range(3)]
    reading = defence.surrogates(base)["pack"](x)
    mean = torch.stack([decision.logits for decision in decisions]).mean(0)
    torch.testing.assert_close(reading.logits, mean, atol=1e-5, rtol=1e-5)
    assert reading.margin is not None
    anyone = torch.stack([decision.flagged for decision in decisions]).any(0)
    assert torch.equal(reading.margin >= 0, anyone)


def test_the_mean_over_many_draws_nears_the_pack() -> None:
    defence, base = diverse()
    x = images(5).floats()
    routes = defence.surrogates(base)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([routes["one"](x).logits for _ in range(400)])
        error = (draws.mean(0) - routes["pack"](x).logits).abs()
    assert draws.std(0).min() > 0
    assert (error < 6 * draws.std(0) / 400**0.5 + 1e-6).all()


def test_the_gradient_of_the_pack_is_the_mean_gradient() -> None:
    defence, base = diverse()
    x = images(4).floats().requires_grad_()
    (pack,) = torch.autograd.grad(defence.surrogates(base)["pack"](x).logits[:, 0].sum(), x)
    each = [member(defence, number).surrogates(base)["reformed"](x).logits[:, 0].sum() for number in range(3)]
    mean = torch.stack([torch.autograd.grad(one, x)[0] for one in each]).mean(0)
    torch.testing.assert_close(pack, mean, atol=1e-6, rtol=1e-4)


def test_the_pack_costs_one_pass_for_x_and_one_for_each_autoencoder() -> None:
    defence, base = diverse()
    x = images(4).floats()
    seen: list[Tensor] = []
    defence.surrogates(lambda z: (seen.append(z), base(z))[1])["pack"](x)
    assert len(seen) == 4
    assert sum(z is x for z in seen) == 1


def test_thresholds_are_fitted_to_each_autoencoder() -> None:
    defence, base = diverse()
    x = images(100).floats()
    defence.calibrate(iter(x.split(30)), base)
    marks = defence.marks(x, base)
    assert marks.shape == (100, 3, 3)
    assert ((marks >= defence.thresholds).sum(0) == 20).all()
    for number in range(3):
        torch.testing.assert_close(member(defence, number).marks(x, base), marks[:, number])


def test_another_seed_gives_another_pack() -> None:
    packs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        system = build(SMALL, Shape(3, 3), SmallNet())
        packs.append(torch.cat([p.flatten() for p in system.defence.parameters()]))
    assert torch.equal(packs[0], packs[1])
    assert not torch.equal(packs[0], packs[2])


def test_the_members_of_a_pack_differ_from_the_start() -> None:
    defence, _ = diverse()
    x = images(3).floats()
    assert spread(torch.stack([net(x) for net in defence.autoencoders])) > 1e-6


@given(st.integers(1, 8), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_diverse_loss_is_bounded_below(pack: int, alpha: float, seed: int) -> None:
    """Around the mean m: sum |a_i - x|^2 - alpha sum |a_i - m|^2 = (1 - alpha) sum |a_i - m|^2 + n |m - x|^2."""
    generator = torch.Generator().manual_seed(seed)
    rebuilt = torch.rand(pack, 2, 3, 4, 4, generator=generator)
    x = torch.rand(2, 3, 4, 4, generator=generator)
    config = replace(SMALL, diversity=alpha)
    stage = TogetherStage(nn.Identity(), DiverseMagnet(config, Shape()), config)
    mean = rebuilt.mean(0)
    apart = sum(float((each - mean).square().mean()) for each in rebuilt)
    wanted = (1 - alpha) * apart + pack * float((mean - x).square().mean())
    assert stage.error(rebuilt, x).item() == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("diversity", [-0.1, 1.0])
def test_a_weight_that_would_reward_any_distance_is_refused(diversity: float) -> None:
    with pytest.raises(UsageError, match="diversity"):
        build_settings(DiverseConfig, {"diversity": diversity}, "settings")


def test_diversity_drives_the_pack_apart() -> None:
    apart = {}
    for diversity in (0.0, 0.9):
        config = replace(SMALL, epochs=8, diversity=diversity)
        torch.manual_seed(0)
        system = build(config, Shape(3, 3), SmallNet(side=8))
        stage = stages(system, config)[1]
        assert isinstance(stage, TogetherStage)
        apart[diversity] = run(stage)[-1]["spread"]
    assert apart[0.9] > 1.2 * apart[0.0]


def run(stage: Stage) -> list[dict[str, float]]:
    """Train on the same few images again and again; return the figures of every step."""
    data, seen = images(24, side=8), []
    torch.manual_seed(0)
    for epoch in range(stage.epochs):
        stage.begin_epoch(epoch, data)
        for index in torch.arange(24).split(8):
            seen.append(stage.step(data.floats(index), data.labels[index], index, 0.0))
    return seen


def test_alone_is_the_training_of_one_autoencoder_by_itself() -> None:
    """Adam sees each weight by itself: with one noise, each comes out as it does without the others."""
    config = replace(SMALL, alone_epochs=2)
    torch.manual_seed(0)
    system = build(config, Shape(3, 3), SmallNet(side=8))
    single = build_plain(replace(MagnetConfig(), lr=config.lr, epochs=2, batch_size=8), Shape(3, 3), SmallNet(side=8))
    assert isinstance(system.defence, DiverseMagnet) and isinstance(single.defence, Magnet)
    single.defence.autoencoder.load_state_dict(system.defence.autoencoders[1].state_dict())
    stage = stages(system, config)[0]
    assert isinstance(stage, AloneStage)
    run(stage)
    run(plain_stages(single, single.defence.config)[0])
    for name, value in single.defence.autoencoder.state_dict().items():
        torch.testing.assert_close(system.defence.autoencoders[1].state_dict()[name], value, atol=1e-5, rtol=1e-4)


def make() -> tuple[Pipeline, list[Stage]]:
    system = build(SMALL, Shape(3, 3), SmallNet(side=8))
    return system, stages(system, SMALL)


def test_training_calibrates_and_leaves_the_base_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = build(SMALL, Shape(3, 3), SmallNet(side=8)).base.state_dict()
    system = train(make, tmp_path / "checkpoint.pt")
    assert all(torch.equal(value, before[name]) for name, value in system.base.state_dict().items())
    figures = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["figures"]
    assert set(figures) == {"alone", "together"}
    assert figures["together"]["spread"] > 0
    assert "false-positive rate" in figures["together"]
    assert "false-positive rate" not in figures["alone"]


def test_killed_anywhere_and_continued(tmp_path: Path) -> None:
    check_every_kill(make, tmp_path)
