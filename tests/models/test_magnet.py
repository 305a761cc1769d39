"""MagNet: its nets, marks, threshold rule and accounting, and its training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.magnet.config import MagnetConfig, Part
from ismn_models.magnet.design import Structure
from ismn_models.magnet.detectors import divergence, reconstruction_error, threshold_at
from ismn_models.magnet.nets import autoencoder
from ismn_models.magnet.system import Magnet, build
from ismn_models.magnet.training import AutoencoderStage, FixedNoise, stages
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape

SMALL = MagnetConfig(epochs=2, batch_size=16)


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 10 * self.layer(x.flatten(1))
        return logits


def images(n: int = 64, seed: int = 0) -> Images:
    """Smooth random images: something an autoencoder can learn."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 2, 2, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=8, mode="bilinear")
    return Images((smooth * 255).to(torch.uint8), torch.arange(n) % 4)


def pipeline(config: MagnetConfig = SMALL, seed: int = 0) -> Pipeline:
    torch.manual_seed(seed)
    return build(config, Shape(4, 3), TinyNet()).eval()


def magnet(config: MagnetConfig = SMALL) -> tuple[Magnet, nn.Module]:
    system = pipeline(config)
    assert isinstance(system.defence, Magnet)
    return system.defence, system.base


@pytest.mark.parametrize(
    ("structure", "channels", "count", "convolutions"),
    [
        ((3,), 3, 252, 3),
        ("improved", 3, 11_139, 3),
        ((3, "average", 3), 1, 310, 5),
        ((3,), 1, 142, 3),
    ],
)
def test_weight_counts(structure: Structure, channels: int, count: int, convolutions: int) -> None:
    net = autoencoder(structure, channels)
    assert sum(p.numel() for p in net.parameters()) == count
    x = torch.rand(2, channels, 8, 8)
    rebuilt = net(x)
    assert rebuilt.shape == x.shape
    assert ((rebuilt >= 0) & (rebuilt <= 1)).all()
    assert len(net.activities(x)) == convolutions == sum(isinstance(m, nn.Conv2d) for m in net.modules())


LOGITS = arrays.arrays("float32", (3, 5), elements=st.floats(-1e4, 1e4, width=32))


@given(LOGITS, LOGITS, st.sampled_from([1.0, 10.0, 40.0]))
def test_divergence_is_bounded_and_symmetric(p: object, q: object, temperature: float) -> None:
    first, second = torch.as_tensor(p), torch.as_tensor(q)
    value = divergence(first, second, temperature)
    assert ((value >= 0) & (value <= math.log(2))).all()
    assert torch.allclose(value, divergence(second, first, temperature), atol=1e-6)
    assert (divergence(first, first, temperature).abs() < 1e-6).all()


def test_divergence_equals_scipys() -> None:
    first, second = 30 * torch.randn(2, 7, 10)
    soft = [(z / 10).softmax(1).double().numpy() for z in (first, second)]
    wanted = torch.as_tensor(jensenshannon(soft[0], soft[1], axis=1) ** 2).float()
    assert torch.allclose(divergence(first, second, 10.0), wanted, atol=1e-6)


def test_reconstruction_error_has_no_root() -> None:
    x, rebuilt = torch.rand(2, 2, 3, 4, 4)
    for p in (1, 2):
        wanted = [sum(abs(float(d)) ** p for d in (a - b).flatten()) / 48 for a, b in zip(x, rebuilt, strict=True)]
        assert reconstruction_error(x, rebuilt, p).tolist() == pytest.approx(wanted, rel=1e-5)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=200, unique=True), st.floats(0, 0.99))
def test_threshold_rejects_exactly_the_share(marks: list[float], rate: float) -> None:
    values = torch.tensor(marks)
    rejected = int((values >= threshold_at(values, rate)).sum())
    assert rejected == int(len(marks) * rate)


def test_no_rejection_means_an_infinite_threshold() -> None:
    assert threshold_at(torch.rand(100), 0.005) == math.inf


def test_calibration_fits_every_detector_to_its_rate() -> None:
    defence, base = magnet(replace(SMALL, error_drop_rate=0.05, jsd_drop_rate=0.1))
    x = images(100).floats()
    defence.calibrate(x.split(30), base)
    marks = defence.marks(x, base)
    assert marks.shape == (100, 3)
    assert (marks >= defence.thresholds).sum(0).tolist() == [5, 10, 10]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.9), st.floats(0, 0.9))
def test_score_flags_exactly_what_some_detector_rejects(error_rate: float, jsd_rate: float) -> None:
    defence, base = magnet(replace(SMALL, error_drop_rate=error_rate, jsd_drop_rate=jsd_rate))
    x = images(40).floats()
    defence.calibrate([x], base)
    wanted = (defence.marks(x, base) >= defence.thresholds).any(1)
    assert torch.equal(defence.decide(x, base).rejected, wanted)


def test_decision_agrees_with_the_general_rule() -> None:
    defence, base = magnet(replace(SMALL, error_drop_rate=0.2, jsd_drop_rate=0.2))
    x = images(30).floats()
    defence.calibrate([x], base)
    fast, slow = defence.decide(x, base), Defence.decide(defence, x, base)
    assert fast.rejected.any()
    for name in ("logits", "score"):
        assert torch.allclose(getattr(fast, name), getattr(slow, name), atol=1e-6)
    for name in ("flagged", "rejected", "loops"):
        assert torch.equal(getattr(fast, name), getattr(slow, name))


def test_magnet_accounting_is_at_least_the_strict_one() -> None:
    defence, base = magnet(replace(SMALL, error_drop_rate=0.3, jsd_drop_rate=0.1))
    data = images(60)
    x, y = data.floats(), data.labels
    defence.calibrate([x], base)
    decision = defence.decide(x, base)
    right = decision.logits.argmax(1) == y
    passed_and_wrong = (~decision.rejected & ~right).float().mean()
    strict = (~decision.rejected & right).float().mean()
    rejected = decision.rejected.float().mean()
    assert rejected > 0
    assert 1 - passed_and_wrong == pytest.approx(float(strict + rejected))


def test_an_uncalibrated_defence_rejects_nothing() -> None:
    defence, base = magnet()
    assert not defence.decide(images(10).floats(), base).rejected.any()


@pytest.mark.parametrize("part", ["error", "jsd-10", "jsd-40"])
def test_a_detector_can_be_switched_off(part: Part) -> None:
    defence, base = magnet(replace(SMALL, off=(part,), error_drop_rate=0.1, jsd_drop_rate=0.1))
    full, _ = magnet()
    x = images(20).floats()
    kept = [i for i, detector in enumerate(full.detectors) if detector.name != part]
    assert torch.equal(defence.marks(x, base), full.marks(x, base)[:, kept])
    defence.calibrate([x], base)
    assert int(defence.thresholds.isinf().sum()) == 1
    assert defence.decide(x, base).rejected.any()


def test_all_detectors_off_rejects_nothing() -> None:
    defence, base = magnet(replace(SMALL, off=("error", "jsd-10", "jsd-40")))
    x = images(20).floats()
    defence.calibrate([x], base)
    assert not defence.decide(x, base).flagged.any()


def test_reformer_off_classifies_the_input_itself() -> None:
    defence, base = magnet(replace(SMALL, off=("reformer",)))
    x = images(5).floats()
    decision = defence.decide(x, base)
    assert torch.equal(decision.logits, base(x))
    assert torch.equal(defence.reform(x), x)
    assert decision.loops.tolist() == [0] * 5


PASSES: dict[tuple[Part, ...], tuple[int, int]] = {
    (): (1, 1),
    ("error",): (1, 1),
    ("jsd-10", "jsd-40"): (0, 1),
    ("error", "jsd-10", "jsd-40"): (0, 1),
    ("reformer",): (1, 1),
    ("reformer", "jsd-10"): (1, 1),
    ("reformer", "jsd-10", "jsd-40"): (1, 0),
}
"""What is off -> how often the classifier has to see the image and its reconstruction."""


@pytest.mark.parametrize("off", PASSES)
def test_every_net_sees_an_image_as_often_as_needed(off: tuple[Part, ...]) -> None:
    defence, base = magnet(replace(SMALL, off=off))
    x, seen, rebuilt = images(4).floats(), list[Tensor](), list[Tensor]()
    defence.autoencoder.register_forward_hook(lambda _net, _given, output: rebuilt.append(output))

    def classify(z: Tensor) -> Tensor:
        seen.append(z)
        return base(z)  # type: ignore[no-any-return]

    for use in (defence.decide, lambda x, f: defence.surrogates(f)["reformed"](x)):
        seen.clear()
        rebuilt.clear()
        use(x, classify)
        assert len(rebuilt) == 1
        assert (sum(z is x for z in seen), sum(z is rebuilt[0] for z in seen)) == PASSES[off]
        assert len(seen) == sum(PASSES[off])


def test_without_detectors_no_margin_stands_in_the_way() -> None:
    defence, base = magnet(replace(SMALL, off=("error", "jsd-10", "jsd-40")))
    assert defence.surrogates(base)["reformed"](images(3).floats()).margin is None


def test_surrogate_has_a_gradient() -> None:
    defence, base = magnet()
    x = images(3).floats().requires_grad_()
    for surrogate in defence.surrogates(base).values():
        (gradient,) = torch.autograd.grad(surrogate(x).logits.sum(), x)
        assert gradient.abs().amax((1, 2, 3)).min() > 0


def test_noise_is_drawn_once_and_rebuilt_from_its_seed() -> None:
    data, noise, other = images(), FixedNoise(), FixedNoise()
    torch.manual_seed(3)
    noise.prepare(data)
    before = noise.at(torch.tensor([4, 9]))
    noise.prepare(data)
    assert torch.equal(noise.at(torch.tensor([4, 9])), before)
    other.seed = noise.seed
    other.prepare(data)
    assert torch.equal(other.at(torch.tensor([9])), before[1:])
    drawn = noise.at(torch.arange(len(data)))
    assert abs(drawn.mean()) < 0.05
    assert drawn.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("arch", ["paper", "improved"])
def test_training_lowers_the_error(arch: str) -> None:
    system = pipeline(replace(SMALL, arch=arch))  # type: ignore[arg-type]
    before = system.base.state_dict()["layer.weight"].clone()
    (stage,) = stages(system, SMALL)
    data = images(256)
    first, last = (train_epoch(stage, data, epoch) for epoch in range(2))
    assert last < first
    figures = stage.finish(data, images(200, seed=1))
    assert figures["validation mse"] > 0
    assert 0 <= figures["false-positive rate"] <= 0.025
    assert torch.equal(system.base.state_dict()["layer.weight"], before)
    assert not any(p.requires_grad for p in system.base.parameters())


def train_epoch(stage: AutoencoderStage, data: Images, epoch: int) -> float:  # type: ignore[misc]
    torch.manual_seed(epoch)
    stage.begin_epoch(epoch, data)
    errors = []
    for index in torch.randperm(len(data)).split(16):
        errors.append(stage.step(data.floats(index), data.labels[index], index, 0.0)["mse"])
    return sum(errors) / len(errors)


def test_a_resumed_run_gives_the_same_weights(tmp_path: Path) -> None:
    data, whole, cut = images(), pipeline(), pipeline()
    (stage,) = stages(whole, SMALL)
    for epoch in range(2):
        train_epoch(stage, data, epoch)
    (first,) = stages(cut, SMALL)
    train_epoch(first, data, 0)
    torch.save({"state": first.state(), "weights": cut.state_dict()}, tmp_path / "checkpoint")
    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    resumed = pipeline(seed=9)
    resumed.load_state_dict(saved["weights"])
    (second,) = stages(resumed, SMALL)
    second.load_state(saved["state"])
    train_epoch(second, data, 1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
