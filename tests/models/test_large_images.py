"""ISMN at 64 to 512 pixels a side: exact shapes and weights, the same results in less memory, batches that fit."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from small_systems import check_every_kill, images, small_system
from torch import Tensor, nn

import ismn_models.images
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.nets import Reduced, base_net
from ismn_models.classifiers.table1 import Table1
from ismn_models.crafting import AttackBank
from ismn_models.dct_detector import GRID
from ismn_models.ddsa import system as ddsa
from ismn_models.ddsa.config import DdsaConfig
from ismn_models.ddsa.training import stages as ddsa_stages
from ismn_models.images import Images
from ismn_models.ismn import defence as ismn_defence
from ismn_models.ismn import system as ismn
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.detector import Detector
from ismn_models.ismn.nets import Discriminator, Encoder, PlainGenerator, SkipGenerator
from ismn_models.ismn.training import stages
from ismn_models.magnet.training import FixedNoise
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage, batch_for

ENCODER = {64: 2_541_568, 128: 4_114_432, 256: 10_405_888, 512: 35_571_712}
SKIP = {64: 2_281_635, 128: 3_866_787, 256: 10_207_395, 512: 35_569_827}
PLAIN = {64: 2_545_283, 128: 4_130_435, 256: 10_471_043, 512: 35_833_475}


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def dense(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_weights_of_the_mapping_network(size: int) -> None:
    side = size // 16
    with torch.device("meta"):
        encoder, skip, plain = Encoder(size), SkipGenerator(size), PlainGenerator(size)
    down = conv(3, 64, 7) + conv(64, 128, 3) + conv(128, 256, 3) + conv(256, 256, 5)
    assert weights(encoder) == down + dense(256 * side**2, 128) == ENCODER[size]
    up = conv(512, 256, 3) + conv(384, 128, 3) + conv(192, 64, 3) + conv(67, 32, 3) + conv(32, 3, 3)
    assert weights(skip) == dense(128, 256 * side**2) + up == SKIP[size]
    mirrored = conv(256, 256, 5) + conv(256, 128, 3) + conv(128, 64, 3) + conv(64, 3, 7)
    assert weights(plain) == dense(128, 256 * side**2) + mirrored == PLAIN[size]


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_shapes_of_every_layer(size: int) -> None:
    with torch.device("meta"):
        encoder, x = Encoder(size), torch.empty(2, 3, size, size)
        code, maps = encoder(x)
        fourth = encoder.conv4(maps[-1])
        assert [tuple(m.shape) for m in maps] == [(2, 64 << k, size >> k + 1, size >> k + 1) for k in range(3)]
        assert fourth.shape == (2, 256, size // 16, size // 16)
        assert encoder.code.in_features == 256 * (size // 16) ** 2
        assert code.shape == (2, 128)
        for generator in (SkipGenerator(size), PlainGenerator(size)):
            assert generator(x, code, maps).shape == x.shape
        assert Discriminator()(x).shape == (2,)


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_what_does_not_grow_with_the_image(size: int) -> None:
    with torch.device("meta"):
        x = torch.empty(2, 3, size, size)
        assert weights(Discriminator()) == 1_029_505
        net = base_net(Shape(2, 3, size))
        assert weights(net) == 7_224_770
        assert net(x).shape == (2, 2)
        assert isinstance(net, Reduced) == (size > 128)
    assert Detector(size).suspicion.in_features == 1024


def test_the_system_at_512_is_its_parts() -> None:
    with torch.device("meta"):
        system = ismn.build(IsmnConfig(), Shape(2, 3, 512))
    detector = 2 * dense(1024, 1)
    assert weights(system) == 2 * 7_224_770 + ENCODER[512] + SKIP[512] + detector
    assert isinstance(system.classifier, Reduced)
    assert isinstance(system.classifier.net, Table1)


def test_the_reduction_is_the_mean_of_each_cell() -> None:
    seen: list[Tensor] = []

    class Eye(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1)

    x = torch.rand(2, 3, 32, 32)
    Reduced(Eye(), 8)(x)
    expected = x.numpy().reshape(2, 3, 8, 4, 8, 4).mean((3, 5))
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-6)
    with torch.device("meta"):
        assert base_net(Shape(2, 3, 512), config=ClassifierConfig(side=64))(torch.empty(1, 3, 512, 512)).shape == (1, 2)


@pytest.mark.parametrize("size", [64, 96])
def test_detector_averages_coefficients_in_equal_cells(size: int) -> None:
    torch.manual_seed(0)
    x, regenerated = torch.rand(2, 2, 3, size, size).double().unbind(0)
    gray = np.einsum("nchw,c->nhw", (x - regenerated).numpy(), [0.299, 0.587, 0.114])
    spectrum = np.abs(dctn(gray, axes=(1, 2), norm="ortho"))
    step = size // GRID
    expected = np.zeros((2, GRID, GRID))
    for row in range(GRID):
        for column in range(GRID):
            cell = spectrum[:, row * step : (row + 1) * step, column * step : (column + 1) * step]
            expected[:, row, column] = cell.mean((1, 2))
    raw = Detector(size).raw_features(x.float(), regenerated.float())
    np.testing.assert_allclose(raw, np.log(expected + 1e-6).reshape(2, -1), atol=1e-3)


def recomputing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lower the bound to nothing; return a list that grows with each regeneration that is recomputed."""
    calls: list[int] = []
    original = ismn_defence.checkpoint

    def counted(function: object, x: Tensor, **options: bool) -> object:
        calls.append(len(x))
        return original(function, x, **options)

    monkeypatch.setattr(ismn_defence, "RECOMPUTED_ABOVE", 0)
    monkeypatch.setattr(ismn_defence, "checkpoint", counted)
    return calls


def gradients(route: str) -> Tensor:
    system = small_system("ismn").requires_grad_(False)
    system.defence.threshold.fill_(-torch.inf)  # all are flagged, and none ever satisfies
    view = system if route == "system" else system.surrogates()[route]
    x = images(6).floats().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(view(x), images(6).labels), x)
    return gradient


@pytest.mark.parametrize("route", ["system", "regenerated", "unrolled"])
def test_recomputed_gradients_are_the_same(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = gradients(route)
    calls = recomputing(monkeypatch)
    assert torch.equal(gradients(route), kept)
    assert len(calls) == {"system": 6, "regenerated": 1, "unrolled": 5}[route]
    assert kept.abs().sum() > 0


def test_nothing_is_recomputed_without_a_gradient_or_for_few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recomputing(monkeypatch)
    system, x = small_system("ismn"), images(6).floats()
    calls.clear()
    with torch.no_grad():
        system(x)
    monkeypatch.setattr(ismn_defence, "RECOMPUTED_ABOVE", x.numel())
    system(x)
    assert calls == []


def steps(number: int, precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the weights after two steps of a stage of ISMN."""
    torch.manual_seed(0)
    config = IsmnConfig(batch_size=6, pgd_steps=1, at_steps=1, gan_start=0)
    system = ismn.build(config, Shape(3, 3, 16), small_system("none").base)
    stage, train = stages(system, config)[number], images(12)
    stage.begin_epoch(0, train)
    for index in torch.arange(12).split(6):
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            stage.step(train.floats(index), train.labels[index], index, 0.5)
    return copy.deepcopy(system.state_dict())


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_recomputed_training_gives_the_same_weights(
    number: int, precision: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = steps(number, precision)
    calls = recomputing(monkeypatch)
    recomputed = steps(number, precision)
    assert bool(calls) == (number == 0)  # the target's steps take no gradient through a regeneration
    for name, value in kept.items():
        assert torch.equal(value, recomputed[name]), name


def set_of(n: int, size: int, channels: int = 3) -> Images:
    """So many images that take no memory."""
    return Images(torch.zeros(1, channels, size, size, dtype=torch.uint8).expand(n, -1, -1, -1), torch.zeros(n).long())


@pytest.mark.parametrize(("size", "batch"), [(28, 250), (64, 250), (128, 64), (256, 16), (512, 4), (2048, 1)])
def test_batches_where_nothing_is_trained(size: int, batch: int) -> None:
    assert batch_for(set_of(10, size)) == batch
    assert batch_for(set_of(10, size), 100) == min(batch, 100)


def test_watched_batches_are_those_of_the_order_given() -> None:
    told: list[tuple[int, int]] = []
    stage, data = Stage(), images(10)
    stage.tell = lambda done, total: told.append((done, total))
    order = torch.tensor([7, 3, 3, 9, 0])
    batches = list(stage.watched(data, 2, order))
    assert torch.equal(torch.cat([x for x, _ in batches]), data.floats(order))
    assert torch.equal(torch.cat([y for _, y in batches]), data.labels[order])
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert torch.equal(torch.cat([x for x, _ in stage.watched(data, 3)]), data.floats())


def test_the_bank_of_a_large_set_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """19,999 images of 512x512 would take 15.7 GB."""
    bank = AttackBank()
    bank.reserve(set_of(19_999, 512))
    assert sum(tensor.nbytes for tensor in bank.state().values()) == 0
    index, made = torch.tensor([3, 19_998]), torch.rand(2, 3, 4, 4)
    for _ in range(2):
        asked: list[Tensor] = []

        def make(missing: Tensor, asked: list[Tensor] = asked) -> tuple[Tensor, Tensor]:
            asked.append(missing)
            return made, torch.tensor([0.1, 0.2])

        examples, eps = bank.lookup(index, make)
        assert [missing.tolist() for missing in asked] == [[0, 1]]
        assert torch.equal(eps, torch.tensor([0.1, 0.2]))
    small = AttackBank()
    small.reserve(set_of(20_000, 4))
    assert torch.equal(small.lookup(index, make)[0], examples)
    assert len(small) == 2
    assert len(bank) == 0


def test_noise_that_is_not_kept_is_each_images_own(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = FixedNoise()
    torch.manual_seed(1)
    noise.prepare(set_of(19_999, 512, 1))
    few = noise.at(torch.tensor([5, 19_998]))
    again = noise.at(torch.tensor([19_998, 7]))
    assert few.shape == (2, 1, 512, 512)
    assert torch.equal(few[1], again[0])
    assert abs(float((few[0] * few[1]).mean())) < 0.02
    assert abs(float(few.mean())) < 0.01
    assert float(few.std()) == pytest.approx(1, abs=0.01)


def test_a_killed_training_that_keeps_no_attacks_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ismn_models.images, "KEPT_BYTES", 0)
    config = DdsaConfig(epochs=2, batch_size=12, pgd_steps=1)

    def build() -> tuple[Pipeline, list[Stage]]:
        system = ddsa.build(config, Shape(3, 3, 8), nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
        return system, ddsa_stages(system, config)

    check_every_kill(build, tmp_path)


def test_a_mapped_file_is_never_read_whole(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=(50, 3, 8, 8))
    mapped[:] = np.arange(50, dtype=np.uint8)[:, None, None, None]
    data = Images(torch.from_numpy(mapped), torch.arange(50))
    place = data.pixels.data_ptr()
    assert data.to("cpu").pixels.data_ptr() == place
    assert data.take(slice(10, 20)).pixels.data_ptr() == place + 10 * 192
    assert torch.equal(data.floats(torch.tensor([49, 3]))[:, 0, 0, 0] * 255, torch.tensor([49.0, 3.0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pixels_that_would_fill_a_gpu_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(10)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * data.pixels.nbytes - 1, 0))
    moved = data.to("cuda")
    assert not moved.pixels.is_cuda
    index = torch.tensor([3, 1], device="cuda")
    assert moved.floats(index).is_cuda
    assert torch.equal(moved.floats(index).cpu(), data.floats(index.cpu()))
    bank = AttackBank()
    bank.reserve(moved)
    examples, _ = bank.lookup(index, lambda missing: (moved.floats(index[missing]), missing.float()))
    assert examples.is_cuda
    assert torch.equal(examples.cpu(), data.floats(index.cpu()))
    monkeypatch.undo()
    assert data.to("cuda").pixels.is_cuda
