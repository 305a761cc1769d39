"""PRN: its net, its universal perturbations, routing, training, and what it is worth to who knows of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from small_systems import SmallNet, check_every_kill, images, small_system, train
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings
from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.craft import craft_batch
from ismn_models.images import Images
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.prn.config import PrnConfig
from ismn_models.prn.nets import Rectifier, clipped_for_descent
from ismn_models.prn.system import Prn, build
from ismn_models.prn.training import RectifierStage, stages
from ismn_models.prn.universal import Ball, perturb, perturbations, synthetic, universal
from ismn_models.shape import Shape
from ismn_models.training import Stage

SMALL = PrnConfig(
    maps=4,
    epochs=2,
    batch_size=8,
    eps=(0.05, 0.1),
    perturbations=6,
    seeds=3,
    universal_images=12,
    universal_passes=1,
    detector_images=12,
    false_positive_rate=0.3,
)
BALLS = st.builds(Ball, st.sampled_from(["linf", "l2"]), st.floats(0.01, 2))


@pytest.mark.parametrize(("channels", "maps"), [(3, 64), (1, 64), (3, 8)])
def test_weight_count(channels: int, maps: int) -> None:
    """A 3x3 convolution from a to b maps has 9ab + b weights: one, ten in the blocks, one to 16, one to the image."""
    by_hand = (9 * channels + 1) * maps + 10 * (9 * maps + 1) * maps + (9 * maps + 1) * 16 + (9 * 16 + 1) * channels
    assert sum(p.numel() for p in Rectifier(channels, maps).parameters()) == by_hand
    if (channels, maps) == (3, 64):
        assert by_hand == 380_739


@pytest.mark.parametrize("size", [8, 15, 32])
def test_it_starts_from_the_identity_and_keeps_the_shape(size: int) -> None:
    x = torch.rand(2, 3, size, size)
    assert torch.equal(Rectifier(maps=4)(x), x)
    redrawn = Rectifier(maps=4, residual=False).eval()(x)
    assert redrawn.shape == x.shape
    assert not torch.equal(redrawn, x)
    assert 0 <= redrawn.min() <= redrawn.max() <= 1


def test_in_training_a_pixel_out_of_range_can_come_back_and_go_no_further() -> None:
    """At -0.5, 0.5 and 1.5, for a loss that falls as pixels fall (gradient 1) and as they rise (-1)."""
    for sign, passed in ((1, [0, 1, 1]), (-1, [1, 1, 0])):
        raw = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
        clipped = clipped_for_descent(raw)
        assert clipped.tolist() == [0, 0.5, 1]
        (sign * clipped).sum().backward()  # type: ignore[no-untyped-call]
        assert raw.grad is not None and raw.grad.tolist() == [sign * p for p in passed]


def test_outside_training_the_gradient_is_that_of_clipping() -> None:
    net, x = Rectifier(maps=4).eval(), torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    with torch.no_grad():
        net.out.bias[0] = 2.0
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert not gradient[:, 0].any() and (gradient[:, 1:] == 1).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), BALLS)
def test_a_synthetic_perturbation_is_in_the_cone_of_its_seeds_and_on_the_bound(seed: int, n: int, ball: Ball) -> None:
    torch.manual_seed(seed)
    seeds = torch.stack([ball.onto(torch.randn(3, 4, 4)) for _ in range(n)])
    made = synthetic(seeds, ball)
    assert float(ball.length(made)) == pytest.approx(ball.eps, rel=1e-5)
    _, residual = nnls(seeds.flatten(1).double().numpy().T, made.flatten().double().numpy())
    assert residual < 1e-5 * np.sqrt(48) * ball.eps


class Linear(nn.Module):
    """Two classes, told apart by one direction; all images here are of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 0.5).flatten(1) @ self.weight + 5
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_classifier_the_universal_perturbation_is_known(norm: str) -> None:
    """It is steepest descent along the one direction there is: -eps sign(w), in L2 -eps w / |w|."""
    grey = Images(torch.full((64, 3, 8, 8), 128, dtype=torch.uint8), torch.zeros(64).long())
    net, ball = Linear(), Ball(norm, 0.04)  # type: ignore[arg-type]
    torch.manual_seed(0)
    found = universal(net, grey, ball, passes=40).flatten()
    best = -0.04 * (net.weight.sign() if norm == "linf" else net.weight / net.weight.norm())
    torch.testing.assert_close(found, best, atol=0.004 if norm == "l2" else 1e-6, rtol=0)


def test_a_set_has_the_perturbations_that_were_asked_for() -> None:
    config = replace(SMALL, eps=(0.05, 0.1), l2_eps=(0.7,), perturbations=8, seeds=4)
    torch.manual_seed(0)
    found = perturbations(SmallNet(side=8).eval(), images(20, side=8), config)
    assert found.shape == (8, 3, 8, 8)
    sizes = [delta.abs().amax().item() for delta in found[:6]] + [delta.norm().item() for delta in found[6:]]
    assert sizes == pytest.approx([0.05] * 3 + [0.1] * 3 + [0.7] * 2, rel=1e-5)
    assert len({tuple(delta.flatten().tolist()) for delta in found}) == 8


def test_images_are_perturbed_one_in_so_many_and_by_one_of_the_set() -> None:
    torch.manual_seed(0)
    deltas, x = 0.3 * torch.randn(4, 3, 4, 4), torch.rand(400, 3, 4, 4)
    known = torch.stack([x, *((x + delta).clamp(0, 1) for delta in deltas)])
    for share in (0.0, 0.5, 1.0):
        same = (known == perturb(x, deltas, share)).flatten(2).all(2)
        assert (same.sum(0) == 1).all()
        counts = same.sum(1) / 400
        assert counts[0].item() == pytest.approx(1 - share, abs=0.08)
        assert torch.allclose(counts[1:], torch.full((4,), share / 4), atol=0.08)


@pytest.mark.parametrize(
    ("settings_given", "says"),
    [
        ({"eps": []}, "give eps or l2_eps"),
        ({"eps": [0.1, 0.2], "seeds": 1}, "seeds is 1; it must be at least 2"),
        ({"perturbations": 5}, r"at most perturbations \(5\)"),
        ({"eps": [1.5]}, "eps"),
        ({"l2_eps": [0.0]}, "l2_eps"),
        ({"output": "both"}, "output"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_settings(PrnConfig, settings_given, "settings of prn")  # type: ignore[arg-type]


def test_it_decides_by_the_common_rule_of_routing() -> None:
    system, x = small_system("prn"), images(40).floats()
    with torch.no_grad():
        mine, common = system.decide(x), Defence.decide(system.defence, x, system.base)
    for name, value in mine._asdict().items():
        assert torch.equal(value, getattr(common, name)), name
    assert 0 < mine.flagged.sum() < 40
    assert not mine.rejected.any()
    assert set(system.surrogates()) == {"reformed", "clean-route"}


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_threshold_gives_the_stated_false_positive_rate(rate: float) -> None:
    system, x = small_system("prn"), images(100, seed=5).floats()
    assert isinstance(system.defence, Prn)
    system.defence.config = replace(system.defence.config, false_positive_rate=rate)
    system.defence.calibrate([x], system.base)
    with torch.no_grad():
        assert int(system.decide(x).flagged.sum()) == round(100 * rate)


def test_the_learning_rate_falls_by_a_tenth_in_a_thousand_steps() -> None:
    stage, data = rectifier_stage(), images(8, side=8)
    stage.begin_epoch(0, data)
    for steps, factor in ((0, 1), (1000, 0.9), (2000, 0.81)):
        stage.steps = steps
        stage.step(data.floats(), data.labels, torch.arange(8), 0.0)
        assert stage.optimisers[0].param_groups[0]["lr"] == pytest.approx(factor * SMALL.lr)


def rectifier_stage(config: PrnConfig = SMALL) -> RectifierStage:
    torch.manual_seed(0)
    stage = stages(build(config, Shape(3, 3, 8), SmallNet(side=8)), config)[0]
    assert isinstance(stage, RectifierStage)
    return stage


def test_another_defence_is_refused() -> None:
    with pytest.raises(TypeError, match="not a PRN pipeline: Defence"):
        stages(Pipeline(SmallNet(), Defence()), SMALL)


def make() -> tuple[Pipeline, list[Stage]]:
    system = build(SMALL, Shape(3, 3, 8), SmallNet(side=8))
    return system, stages(system, SMALL)


def test_killed_anywhere_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_models.dct_detector.PENALTIES", (1e-2,))
    check_every_kill(make, tmp_path)


def test_the_base_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = make()[0].base.state_dict()
    system = train(make, tmp_path / "checkpoint.pt")
    assert all(torch.equal(value, before[name]) for name, value in system.base.state_dict().items())
    assert bool(system.defence.threshold.isfinite())


class Fragile(nn.Module):
    """Knows `images` by their brightest channel, and listens to a checkerboard in it that none of them has."""

    def __init__(self) -> None:
        super().__init__()
        place = torch.arange(8)
        self.register_buffer("checkerboard", 1.0 - 2 * ((place[:, None] + place) % 2))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 20 * x.mean((2, 3)) + 100 * (x * self.checkerboard).mean((2, 3))
        return logits


def trained_on(base: nn.Module, data: Images, eps: float) -> tuple[Pipeline, dict[str, float]]:
    config = replace(SMALL, maps=8, lr=3e-3, eps=(eps,), perturbations=16, seeds=6, universal_images=64)
    config = replace(config, universal_passes=8, detector_images=len(data), false_positive_rate=0.05)
    torch.manual_seed(0)
    system = build(config, Shape(3, 3, 8), base)
    rectifier, detector = stages(system, config)
    torch.manual_seed(1)
    for epoch in range(15):
        rectifier.begin_epoch(epoch, data)
        for index in torch.randperm(len(data)).split(20):
            rectifier.step(data.floats(index), data.labels[index], index, 0.0)
    system.eval()
    return system, detector.finish(data, images(100, seed=7, side=8))


def test_it_undoes_universal_perturbations_and_falls_to_who_goes_through_it() -> None:
    system, figures = trained_on(Fragile(), images(200, side=8), eps=0.15)
    fresh = images(60, seed=8, side=8)

    def attacked(method: str, model: nn.Module) -> Tensor:
        spec = resolve_params(method, ThreatModel(eps=0.15), {})
        return craft_batch(model, make_attack(spec, 3), fresh.floats(), fresh.labels, spec.threat, seed=0).adversarial

    def accuracy(logits: Tensor) -> float:
        return (logits.argmax(1) == fresh.labels).float().mean().item()

    # Computed anew for the closing figures: the rectifier was not trained on these.
    assert figures["validation accuracy, clean"] > 0.95
    assert figures["validation flagged, clean"] == pytest.approx(0.05)
    assert figures["validation base accuracy, perturbed"] < 0.45
    assert figures["validation accuracy, perturbed"] > 0.65
    assert figures["validation flagged, perturbed"] > 0.5
    # The harness's own attack, which looks for the perturbation in another way.
    gray = attacked("uap", system.base)
    assert accuracy(system.base(gray)) == pytest.approx(1 / 3, abs=0.02), "one class of three is left"
    assert accuracy(system.base(system.defence.reform(gray))) > 0.9
    assert accuracy(system(gray)) > 1 / 3 + 0.2
    assert accuracy(system(attacked("pgd", system.surrogates()["reformed"]))) < 0.35
    assert accuracy(system(attacked("pgd", system))) < 0.35
