"""MagNet's set-ups: what settings resolve to, and the MNIST one against a plain reading of the authors' description."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_systems import check_every_kill
from torch import Tensor, nn
from torch.nn import functional as F

from ismn_cli.core.settings import build_settings
from ismn_cli.stages.weights import load_weights, read_header
from ismn_models.images import Images
from ismn_models.magnet.config import PARTS, MagnetConfig
from ismn_models.magnet.design import REFORMER, SECOND, design
from ismn_models.magnet.diverse import system as diverse
from ismn_models.magnet.diverse.config import DiverseConfig
from ismn_models.magnet.system import Magnet, build
from ismn_models.magnet.training import AutoencoderStage, stages
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

DIGITS, COLOURS = Shape(10, 1, 28), Shape(10, 3, 32)
WEIGHTS = Path(__file__).parents[2] / "models" / "ismn_models" / "weights"


class Bright(nn.Module):
    """Three classes by brightness, for images of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 20 * self.out(x.flatten(1).mean(1, keepdim=True))
        return logits


def digits(n: int, seed: int = 0, channels: int = 1) -> Images:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    pixels = nn.functional.interpolate(coarse, size=8, mode="bilinear")
    return Images((pixels * 255).to(torch.uint8), torch.arange(n) % 3, mirror=False)


def system(seed: int = 0, channels: int = 1, **options: object) -> Pipeline:
    torch.manual_seed(seed)
    config = MagnetConfig(**({"setup": "mnist", "epochs": 2, "batch_size": 8} | options))  # type: ignore[arg-type]
    return build(config, Shape(3, channels, 8), Bright()).eval()


def defence_of(pipeline: Pipeline) -> Magnet:
    assert isinstance(pipeline.defence, Magnet)
    return pipeline.defence


def test_the_images_choose_the_set_up() -> None:
    mnist, cifar10 = MagnetConfig().resolved(DIGITS), MagnetConfig().resolved(COLOURS)
    assert (mnist.setup, mnist.arch, mnist.noise, mnist.error_drop_rate) == ("mnist", None, 0.1, 0.001)
    assert (cifar10.setup, cifar10.arch, cifar10.noise) == ("cifar10", "improved", 0.025)
    assert (cifar10.error_drop_rate, cifar10.jsd_drop_rate) == (0.005, 0.01)
    for found, shape in ((mnist, DIGITS), (cifar10, COLOURS)):
        assert found.resolved(shape) == found


def test_what_is_given_is_kept() -> None:
    given_all = MagnetConfig(setup="cifar10", arch="paper", noise=0.0, error_drop_rate=0.0, jsd_drop_rate=0.5)
    assert given_all.resolved(DIGITS) == given_all
    assert MagnetConfig(noise=0.3).resolved(DIGITS).noise == 0.3
    assert DiverseConfig(pack=2).resolved(DIGITS).setup == "cifar10"
    assert isinstance(diverse.build(DiverseConfig(pack=2), DIGITS, Bright()).defence, diverse.DiverseMagnet)


@pytest.mark.parametrize(
    ("config", "shape", "said"),
    [
        (MagnetConfig(off=("jsd-10",)), DIGITS, "off: the set-up mnist has no 'jsd-10'; it has error-1, error-2"),
        (MagnetConfig(off=("error-1",)), COLOURS, "off: the set-up cifar10 has no 'error-1'"),
        (MagnetConfig(arch="paper"), DIGITS, "arch: the set-up mnist has none"),
        (MagnetConfig(jsd_drop_rate=0.01), DIGITS, "jsd_drop_rate: the set-up mnist has none"),
        (MagnetConfig(), Shape(10, 1, 33), "33 pixels is odd; set setup=cifar10"),
    ],
)
def test_settings_that_do_not_fit_the_images(config: MagnetConfig, shape: Shape, said: str) -> None:
    for refused in (config.resolved, lambda shape: build(config, shape, Bright())):
        with pytest.raises(ValueError, match=said):
            refused(shape)


@pytest.mark.parametrize(("setup", "shape"), [("mnist", DIGITS), ("cifar10", COLOURS)])
def test_each_part_of_a_set_up_can_be_switched_off_alone(setup: str, shape: Shape) -> None:
    whole = {detector.name for detector in design(MagnetConfig(), shape).detectors}
    assert {*whole, "reformer"} == set(PARTS[setup])
    for part in PARTS[setup]:
        left = Magnet(MagnetConfig(off=(part,)), shape)
        assert {detector.name for detector in left.detectors} == whole - {part}


def test_the_published_sizes() -> None:
    defence = Magnet(MagnetConfig(), DIGITS)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in defence.nets().items()}
    assert counts == {REFORMER: 310, SECOND: 142}
    x = torch.rand(2, 1, 28, 28)
    sides = [out.shape[-1] for out in defence.nets()[REFORMER].activities(x)]
    assert sides == [28, 14, 14, 28, 28]


def by_hand(state: dict[str, Tensor], x: Tensor, resize: dict[int, str]) -> Tensor:
    """Return the reconstruction by a chain of sigmoid layers; ``resize``: what comes before each layer."""
    kernels = [tensor for tensor in state.values() if tensor.ndim == 4]
    biases = [tensor for tensor in state.values() if tensor.ndim == 1]
    for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        if resize.get(number) == "average":
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        elif resize.get(number) == "up":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = torch.sigmoid(F.conv2d(x, kernel, bias, padding=1))
    return x


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.6))
def test_a_decision_is_what_the_authors_describe(seed: int, rate: float) -> None:
    pipeline = system(seed, error_drop_rate=rate)
    defence, x = defence_of(pipeline), digits(30, seed).floats()
    defence.calibrate(digits(50, seed + 1).floats().split(20), pipeline.base)
    first = by_hand(defence.nets()[REFORMER].state_dict(), x, {1: "average", 3: "up"})
    second = by_hand(defence.nets()[SECOND].state_dict(), x, {})
    marks = torch.stack([((x - first) ** 2).mean((1, 2, 3)), (x - second).abs().mean((1, 2, 3))], 1)
    torch.testing.assert_close(defence.marks(x, pipeline.base), marks, atol=1e-6, rtol=1e-4)
    clear = ((marks / defence.thresholds - 1).abs() > 1e-4).all(1)
    decision = pipeline.decide(x)
    assert torch.equal(decision.rejected[clear], (marks >= defence.thresholds).any(1)[clear])
    torch.testing.assert_close(decision.logits, pipeline.base(first), atol=1e-4, rtol=1e-4)


def test_each_detector_rejects_its_share() -> None:
    pipeline = system()
    defence, x = defence_of(pipeline), torch.rand(3000, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    defence.calibrate(x.split(1000), pipeline.base)
    assert (defence.marks(x, pipeline.base) >= defence.thresholds).sum(0).tolist() == [3, 3]
    assert 3 <= int(pipeline.decide(x).rejected.sum()) <= 6


def test_no_detector_needs_the_classifier() -> None:
    pipeline, seen = system(), list[Tensor]()
    defence, x = defence_of(pipeline), digits(4).floats()
    defence.decide(x, lambda z: (seen.append(z), pipeline.base(z))[1])
    assert len(seen) == 1 and torch.equal(seen[0], defence.rebuild(x))


def run(stage: Stage) -> None:
    torch.manual_seed(0)
    data = digits(24)
    for epoch in range(stage.epochs):
        stage.begin_epoch(epoch, data)
        for index in torch.arange(24).split(8):
            stage.step(data.floats(index), data.labels[index], index, 0.0)


def test_side_by_side_each_autoencoder_is_trained_as_by_itself() -> None:
    """Adam sees each weight by itself: the squared error alone, with v noise drawn once, gives the same weights."""
    pipeline = system(activity_weight=0.0, lr=1e-2)
    defence = defence_of(pipeline)
    (stage,) = stages(pipeline, defence.config)
    assert isinstance(stage, AutoencoderStage)
    second = Magnet(defence.config, Shape(3, 1, 8)).nets()[SECOND]
    second.load_state_dict(defence.nets()[SECOND].state_dict())
    before = [p.clone() for p in second.parameters()]
    run(stage)
    optimiser = torch.optim.Adam(second.parameters(), 1e-2)
    x, everything = digits(24).floats(), torch.arange(24)
    noisy = (x + 0.1 * stage.noise.at(everything)).clamp(0, 1)
    for index in [*everything.split(8)] * 2:
        loss = F.mse_loss(second(noisy[index]), x[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for own, wanted, first in zip(defence.nets()[SECOND].parameters(), second.parameters(), before, strict=True):
        torch.testing.assert_close(own, wanted, atol=1e-5, rtol=1e-4)
        assert not torch.equal(own, first)


def test_the_activities_of_every_convolution_count_and_nothing_else() -> None:
    pipeline = system(activity_weight=0.5, noise=0.0)
    defence, data = defence_of(pipeline), digits(8)
    (stage,) = stages(pipeline, defence.config)
    x, outputs = data.floats(), list[Tensor]()
    for net in defence.nets().values():
        for module in net.modules():
            if isinstance(module, nn.Sigmoid):
                module.register_forward_hook(lambda _m, _i, out: outputs.append(out.detach()))
    wanted = sum(F.mse_loss(net(x), x).item() for net in defence.nets().values())
    counted = sum(float(out.square().sum()) for out in outputs) / len(x)
    stage.begin_epoch(0, data)
    loss = stage.step(x, data.labels, torch.arange(8), 0.0)["loss"]
    assert loss == pytest.approx(wanted + 0.5 * counted, rel=1e-4)


def test_killed_anywhere_and_continued(tmp_path: Path) -> None:
    def make() -> tuple[Pipeline, list[Stage]]:
        pipeline = system(channels=3)
        return pipeline, stages(pipeline, defence_of(pipeline).config)

    def with_a_head_start() -> tuple[Pipeline, list[Stage]]:
        pipeline, found = make()
        return pipeline, [Nothing(), *found]

    check_every_kill(with_a_head_start, tmp_path)


class Nothing(Stage):
    """A stage before: what a kill there leaves is continued too."""

    name = "nothing"


def test_the_released_weights_are_read_as_they_were_meant() -> None:
    """The released autoencoder from its tensors, without any code of MagNet's but the threshold rule."""
    path = WEIGHTS / "magnet.safetensors"
    header = read_header(path)
    config = build_settings(MagnetConfig, header.config, "released")
    pipeline = build(config, header.kind().shape, Bright()).eval()
    load_weights(path, pipeline, base=False)
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = {name.removeprefix("autoencoder."): t for name, t in pipeline.defence.state_dict().items()}

    def block(x: Tensor, conv: str) -> Tensor:
        return F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=1)

    def norm(x: Tensor, name: str) -> Tensor:
        moments = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, *moments, state[f"{name}.weight"], state[f"{name}.bias"])

    h = norm(block(x, "0.0"), "0.1").relu()
    rebuilt = torch.sigmoid(block(norm(block(h, "1.0").relu(), "1.2"), "2.0"))
    defence = defence_of(pipeline)
    torch.testing.assert_close(defence.rebuild(x), rebuilt, atol=1e-5, rtol=1e-4)
    assert [d.name for d in defence.detectors] == ["error", "jsd-10", "jsd-40"]
    assert defence.thresholds.isfinite().all()
    mark = (x - rebuilt).abs().mean((1, 2, 3))
    torch.testing.assert_close(defence.marks(x, pipeline.base)[:, 0], mark, atol=1e-6, rtol=1e-4)
    assert (pipeline.decide(x).score >= mark / defence.thresholds[0] * (1 - 1e-4)).all()
