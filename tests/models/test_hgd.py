"""HGD: its net, its guides, its training attacks and schedule, and the collapse under end-to-end attack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_systems import SmallNet, check_every_kill, images
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings
from ismn_models.classifiers.resnet import resnet18, wide_resnet
from ismn_models.classifiers.table1 import Table1
from ismn_models.crafting import pgd
from ismn_models.hgd.config import Guidance, HgdConfig, Kind
from ismn_models.hgd.guidance import TopMap, guiding
from ismn_models.hgd.nets import Denoiser
from ismn_models.hgd.system import Hgd, build
from ismn_models.hgd.training import GuidedStage, lr_factor, stages
from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.refusal import RefusalError
from ismn_models.shape import Shape
from ismn_models.training import Stage

SMALL = HgdConfig(maps=4, epochs=3, batch_size=8, refresh=2)
THREE = [
    (3, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 256), (256, 256),
    (384, 128), (128, 128), (128, 128), (192, 64), (64, 64),
]  # fmt: skip
"""(from, to) of every 3x3 convolution below 64 pixels a side, in the order they are passed."""
FIVE = [
    (3, 64), (64, 64), (64, 128), (128, 128), (128, 128), *[(128, 256), (256, 256), (256, 256)],
    *[(256, 256)] * 6, *[(512, 256), (256, 256), (256, 256)] * 2, (384, 128), (128, 128), (128, 128),
    (192, 64), (64, 64),
]  # fmt: skip


def pipeline(config: HgdConfig = SMALL, base: nn.Module | None = None, seed: int = 0) -> Pipeline:
    torch.manual_seed(seed)
    return build(config, Shape(3, 3, 8), base or SmallNet(side=8))


def stage_of(system: Pipeline, config: HgdConfig = SMALL) -> GuidedStage:
    (stage,) = stages(system, config)
    assert isinstance(stage, GuidedStage)
    return stage


def train_epoch(stage: GuidedStage, data: Images, epoch: int) -> None:
    torch.manual_seed(epoch)
    stage.begin_epoch(epoch, data)
    order = torch.randperm(len(data)).split(stage.batch_size)
    for k, index in enumerate(order):
        progress = (epoch + k / len(order)) / stage.epochs
        stage.step(data.floats(index), data.labels[index], index, progress)


@pytest.mark.parametrize(
    ("size", "convolutions", "weights", "sides"),
    [
        (32, THREE, 2_770_304, [32] * 2 + [16] * 3 + [8] * 3 + [16] * 3 + [32] * 2),
        (
            64, FIVE, 11_033_984,
            [64] * 2 + [32] * 3 + [16] * 3 + [8] * 3 + [4] * 3 + [8] * 3 + [16] * 3 + [32] * 3 + [64] * 2,
        ),
    ],
)  # fmt: skip
def test_weights_and_maps(size: int, convolutions: list[tuple[int, int]], weights: int, sides: list[int]) -> None:
    """Each convolution without bias, with scale and shift of its batch normalisation; the last 1x1 bare."""
    net = Denoiser(3, size).eval()
    passed: list[tuple[int, int]] = []
    made_sides: list[int] = []

    def watch(_: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
        passed.append((given[0].shape[1], made.shape[1]))
        made_sides.append(made.shape[-1])

    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module is not net.final:
            module.register_forward_hook(watch)
    counted = sum(p.numel() for p in net.parameters())
    assert counted == weights == sum(9 * a * b + 2 * b for a, b in convolutions) + 64 * 3
    net(torch.rand(1, 3, size, size))
    assert passed == convolutions
    assert made_sides == sides


@settings(max_examples=12, deadline=None)
@given(st.integers(5, 70), st.integers(5, 70), st.sampled_from([1, 3]))
def test_any_size_comes_back(height: int, width: int, channels: int) -> None:
    """Odd sizes too: a map of ceil(n/2) is brought back to n."""
    net = Denoiser(channels, max(height, width), maps=1)
    nn.init.normal_(net.final.weight)
    x = torch.rand(2, channels, height, width)
    out = net(x)
    assert out.shape == x.shape
    assert ((out >= -1e-6) & (out <= 1 + 1e-6)).all()


def test_it_starts_as_the_identity() -> None:
    net, x = Denoiser(maps=4), torch.rand(3, 3, 16, 16)
    assert torch.equal(net(x), x) and torch.equal(net.eval()(x), x)


@pytest.mark.parametrize("training", [True, False])
def test_what_comes_out_is_added_and_clipped(training: bool) -> None:
    """In training a pixel out of range still has a gradient."""
    net = Denoiser(maps=4).train(training)
    nn.init.normal_(net.final.weight)
    changes: list[Tensor] = []
    net.final.register_forward_hook(lambda _, __, made: made.retain_grad() or changes.append(made))
    x = torch.rand(3, 3, 16, 16)
    out = net(x)
    raw = x + changes[0]
    outside = (raw < 0) | (raw > 1)
    assert 0 < outside.sum() < outside.numel()
    torch.testing.assert_close(out, raw.clamp(0, 1))
    out.sum().backward()
    assert changes[0].grad is not None
    assert torch.equal(changes[0].grad, torch.ones_like(x) if training else (~outside).float())


@pytest.mark.parametrize("guidance", ["logits", "features", "pixels", "labels"])
def test_the_losses_written_out(guidance: Guidance) -> None:
    base, data = SmallNet(side=8).eval().requires_grad_(False), images(6, side=8)
    clean, y = data.floats(), data.labels
    denoised = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    loss, logits = guiding(guidance, base)(denoised, clean, y)
    torch.testing.assert_close(logits, base(denoised))

    def maps(x: Tensor) -> Tensor:
        return base.norm(base.conv(4 * x - 2))

    wanted = {
        "logits": lambda: (base(denoised) - base(clean)).abs().sum() / 18,
        "features": lambda: (maps(denoised) - maps(clean)).abs().sum() / (6 * 6 * 4 * 4),
        "pixels": lambda: (denoised - clean).abs().sum() / (6 * 3 * 8 * 8),
        "labels": lambda: -base(denoised).softmax(1)[torch.arange(6), y].log().sum() / 6,
    }[guidance]()
    torch.testing.assert_close(loss, wanted)
    got = torch.autograd.grad(loss, denoised)[0]
    torch.testing.assert_close(got, torch.autograd.grad(wanted, denoised)[0], atol=1e-6, rtol=1e-4)


def test_the_top_map_of_each_classifier() -> None:
    """Cut off after its last block: a shortcut is called after the convolutions that it goes around."""
    x = torch.rand(2, 3, 32, 32)
    table1, resnet, wide = Table1().eval(), resnet18().eval(), wide_resnet(depth=10, widen=1).eval()
    pooled: list[Tensor] = []
    for net in (resnet, wide):
        linear = next(module for module in net.modules() if isinstance(module, nn.Linear))
        linear.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    with torch.no_grad():
        found, logits = TopMap(table1)(x)
        assert torch.equal(found, table1.features((x - 0.5) * 4)) and found.shape == (2, 64, 10, 10)
        assert torch.equal(logits, table1(x))
        for net, maps in ((resnet, 512), (wide, 64)):
            found, logits = TopMap(net)(x)
            assert found.shape[1] == maps and found.shape[2] > 1 and (found >= 0).all()
            torch.testing.assert_close(found.mean((2, 3)), pooled.pop())
            assert torch.equal(logits, net(x))
            pooled.clear()


def test_no_hook_stays_behind() -> None:
    base = SmallNet(side=8).eval()
    TopMap(base)(torch.rand(2, 3, 8, 8))
    with pytest.raises(RuntimeError):
        TopMap(base)(torch.rand(2, 5, 8, 8))
    assert not any(module._forward_hooks for module in base.modules())


def test_a_classifier_without_maps_cannot_guide_by_features() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    config = replace(SMALL, guidance="features")
    with pytest.raises(RefusalError, match="no convolution"):
        stages(pipeline(config, dense), config)
    stages(pipeline(base=dense), SMALL)
    pointless = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(RefusalError, match="one pixel"):
        TopMap(pointless)(torch.rand(2, 3, 8, 8))


def test_other_pipelines_are_refused() -> None:
    system = pipeline()
    with pytest.raises(TypeError, match="not an HGD pipeline"):
        stages(Pipeline(system.base, nn.Identity()), SMALL)  # type: ignore[arg-type]


def reference(base: nn.Module, x: Tensor, eps: Tensor, steps: int) -> Tensor:
    """Iterated FGSM against the answer to x, in steps of eps/steps."""
    labels, radius = base(x).argmax(1), eps[:, None, None, None]
    attacked = x
    for _ in range(steps):
        point = attacked.clone().requires_grad_()
        nn.functional.cross_entropy(base(point), labels).backward()
        assert point.grad is not None
        attacked = attacked + radius / steps * point.grad.sign()
        attacked = torch.min(torch.max(attacked, x - radius), x + radius).clamp(0, 1)
    return attacked


@pytest.mark.parametrize(("kind", "steps"), [("fgsm", 1), ("ifgsm2", 2), ("ifgsm4", 4)])
def test_gradient_attacks_equal_the_reference(kind: Kind, steps: int) -> None:
    stage, x = stage_of(pipeline(), replace(SMALL, attacks=(kind,))), images(30, side=8).floats()
    stage.base.eval()
    attacked, eps = stage.attack(x)
    torch.testing.assert_close(attacked, reference(stage.base, x, eps, steps))


@pytest.mark.parametrize("kind", ["noop", "noise", "fgsm"])
def test_attacks_have_whole_grey_levels_for_eps(kind: Kind) -> None:
    stage, x = stage_of(pipeline(), replace(SMALL, attacks=(kind,), eps_max=16 / 255)), images(300, side=8).floats()
    stage.base.eval()
    attacked, eps = stage.attack(x)
    assert sorted({round(level, 3) for level in (eps * 255).tolist()}) == list(range(1, 17))
    moved = (attacked - x).abs().amax((1, 2, 3))
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert (moved <= eps + 1e-6).all()
    assert (moved == 0).all() if kind == "noop" else (moved > 0.8 * eps).all()


def test_every_kind_is_drawn() -> None:
    """Named twice, drawn twice as often; and what one kind makes lands on its own images."""
    stage, x = stage_of(pipeline(), replace(SMALL, attacks=("noop", "noise", "noise"))), torch.rand(900, 3, 8, 8)
    torch.manual_seed(0)
    attacked, eps = stage.attack(x)
    moved = (attacked - x).abs().amax((1, 2, 3))
    assert 0.6 < (moved > 0).float().mean() < 0.73
    assert (moved <= eps + 1e-6).all()


@pytest.mark.parametrize("epochs", [10, 20, 100])
def test_the_learning_rate_is_the_codes(epochs: int) -> None:
    """There, epochs are counted from 1 and the rate holds for an epoch."""
    for epoch in range(1, epochs + 1):
        wanted = 1.0 if epoch <= epochs * 0.6 else 0.1 if epoch <= epochs * 0.9 else 0.01
        for step in range(7):
            assert lr_factor((epoch - 1 + step / 7) / epochs) == wanted, (epoch, step)


def test_a_step_uses_that_rate() -> None:
    stage, data = stage_of(pipeline()), images(8, side=8)
    stage.begin_epoch(0, data)
    for progress, wanted in ((0.0, 1e-3), (0.7, 1e-4), (0.95, 1e-5)):
        stage.step(data.floats(), data.labels, torch.arange(8), progress)
        assert stage.optimisers[0].param_groups[0]["lr"] == pytest.approx(wanted)


def test_attacks_are_kept_for_refresh_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, data = stage_of(pipeline()), images(16, side=8)
    crafted: list[int] = []
    attack = stage.attack
    monkeypatch.setattr(stage, "attack", lambda x: (crafted.append(len(x)), attack(x))[1])
    for epoch in range(3):
        train_epoch(stage, data, epoch)
        crafted.append(0)
    assert crafted == [8, 8, 0, 0, 8, 8, 0]


@pytest.mark.parametrize("guidance", ["logits", "features", "pixels", "labels"])
def test_training_moves_the_denoiser_alone(guidance: Guidance) -> None:
    config = replace(SMALL, guidance=guidance)
    system, data = pipeline(config), images(16, side=8)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    stage = stage_of(system, config)
    for epoch in range(2):
        train_epoch(stage, data, epoch)
        assert not system.base.training and system.defence.training
    moved = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert "defence.denoiser.final.weight" in moved and "defence.denoiser.encoder.0.0.weight" in moved
    assert all(name.startswith("defence.") for name in moved)
    assert not any(parameter.requires_grad for parameter in system.base.parameters())


def test_closing_figures_are_accuracies_on_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_models.hgd.training.MEASURED", 10)
    system, data = pipeline(), images(30, side=8)
    nn.init.normal_(system.defence.denoiser.final.weight)
    stage = stage_of(system, replace(SMALL, attacks=("noop",)))
    told: list[tuple[int, int]] = []
    stage.tell = lambda done, of: told.append((done, of))
    figures = stage.finish(data, data)
    x, y = data.floats(slice(10)), data.labels[:10]
    with torch.no_grad():
        right = [(net(x).argmax(1) == y).float().mean().item() for net in (system.eval(), system.base)]
    for name, share in zip(("accuracy", "base accuracy"), right, strict=True):
        for kind in ("clean", "attacked"):
            assert figures[f"validation {name}, {kind}"] == pytest.approx(share)
    assert told == [(10, 10)]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"attacks": []}, "attacks"),
        ({"attacks": ["pgd"]}, "attacks.0"),
        ({"guidance": "logit"}, "guidance"),
        ({"eps_max": 0.001}, "eps_max"),
        ({"maps": 0}, "maps"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        build_settings(HgdConfig, settings, "settings of hgd")  # type: ignore[arg-type]


@pytest.mark.parametrize(("eps_max", "levels"), [(16 / 255, 16), (1 / 255, 1), (0.1, 25), (1.0, 255)])
def test_the_largest_eps_in_grey_levels(eps_max: float, levels: int) -> None:
    assert HgdConfig(eps_max=eps_max).grey_levels() == levels


def test_the_defence_reforms_everything_and_rejects_nothing() -> None:
    system = pipeline().eval()
    nn.init.normal_(system.defence.denoiser.final.weight)
    x = images(6, side=8).floats()
    decision = system.decide(x)
    assert isinstance(system.defence, Hgd)
    assert torch.equal(decision.logits, system.base(system.defence.reform(x)))
    assert not torch.equal(decision.logits, system.base(x))
    assert not (decision.flagged | decision.rejected).any()


def test_killed_anywhere_and_continued(tmp_path: Path) -> None:
    """Also between epochs that share their attacked images."""
    config = replace(SMALL, maps=2, epochs=2, batch_size=12)

    def make() -> tuple[Pipeline, list[Stage]]:
        system = build(config, Shape(3, 3, 8), SmallNet(side=8))
        return system, stages(system, config)

    check_every_kill(make, tmp_path)


class LeastSquares(nn.Module):
    """The linear classifier of least squares: right on clean images, by faint patterns that are easily turned."""

    def __init__(self, data: Images) -> None:
        super().__init__()
        inputs = torch.cat([data.floats().flatten(1) - 0.5, torch.ones(len(data), 1)], 1)
        wanted = 6 * nn.functional.one_hot(data.labels, 3).float() - 2
        self.register_buffer("weights", torch.linalg.lstsq(inputs, wanted).solution)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (x - 0.5).flatten(1) @ self.weights[:-1] + self.weights[-1]
        return logits


def test_gray_box_gain_is_lost_end_to_end() -> None:
    """Athalye and Carlini 2018: PGD through denoiser and classifier takes all that the denoiser gave."""
    data, unseen = images(256, side=8), images(99, seed=1, side=8)
    config = replace(SMALL, maps=8, epochs=12, batch_size=32, lr=0.01, attacks=("ifgsm4",))
    system = pipeline(config, LeastSquares(data))
    stage = stage_of(system, config)
    for epoch in range(config.epochs):
        train_epoch(stage, data, epoch)
    system.eval()
    x, y, eps = unseen.floats(), unseen.labels, 8 / 255
    gray, white = pgd(system.base, x, y, eps, 10, eps / 4), pgd(system, x, y, eps, 20, eps / 4)

    @torch.no_grad()
    def accuracy(net: nn.Module, inputs: Tensor) -> float:
        return (net(inputs).argmax(1) == y).float().mean().item()

    assert accuracy(system.base, x) > 0.9 and accuracy(system, x) > 0.9
    assert accuracy(system.base, gray) < 0.05
    assert accuracy(system, gray) > 0.4
    assert accuracy(system, white) < 0.05
