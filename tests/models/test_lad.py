"""LAD: settings, latents, the generator, and the boundary."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lad import SEEDS, SMALL, make, three
from small_systems import SmallNet, images
from torch import Tensor, nn

from ismn_models.classifiers.resnet import resnet18
from ismn_models.classifiers.table1 import Table1
from ismn_models.images import Images
from ismn_models.lad import boundary
from ismn_models.lad.boundary import draw_targets, fit, separable, separate
from ismn_models.lad.config import LadConfig
from ismn_models.lad.latents import latent_of
from ismn_models.lad.nets import AttentionSvm, Generator
from ismn_models.refusal import RefusalError

# Settings


def test_defaults_are_the_public_codes() -> None:
    config = LadConfig()
    assert (config.lr, config.momentum, config.weight_decay, config.batch_size) == (0.01, 0.5, 5e-4, 64)
    assert (config.svm_images, config.svm_epochs, config.svm_batch_size, config.svm_lr) == (200, 10, 1, 0.01)
    assert (config.generator_lr, config.svm_c, config.error, config.start) == (1e-3, 0.01, "l1", "base")
    assert [config.images_per_class(k) for k in (2, 3, 10)] == [900, 450, 450]
    assert [config.generator_batch(n) for n in (28, 64, 128, 512)] == [200, 200, 50, 3]
    assert not config.compat


@given(st.floats(0, 3), st.floats(0.01, 2), st.floats(3, 60))
def test_the_ladder(first: float, step: float, last: float) -> None:
    rungs = LadConfig(eps_init=first, eps_step=step, eps_max=last).ladder()
    assert rungs[0] == first and last - 10 * step < rungs[-1] <= last
    for below, above in pairwise(rungs):
        assert above - below == pytest.approx(10 * step if below >= 1 else step, abs=1e-5)


def test_a_ladder_without_a_rung_is_refused() -> None:
    with pytest.raises(ValueError, match="eps_init 2"):
        LadConfig(eps_init=2.0, eps_max=1.0)


# Latents


def shown(net: nn.Module, module: nn.Module, x: Tensor) -> Tensor:
    """Return what ``module`` gives on the way of x through ``net``."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone()))
    net.eval()(x)
    handle.remove()
    return seen[-1]


def test_latents_of_table_1_are_its_rectified_dense_layer() -> None:
    net, x = Table1(4, 3), torch.rand(3, 3, 32, 32)
    z = latent_of(net)(x)
    assert z.shape == (3, 1024)
    assert torch.equal(z, shown(net, net.dense, x).relu())


def test_latents_of_a_resnet_are_its_pooled_features() -> None:
    net, x = resnet18(4), torch.rand(2, 3, 16, 16)
    z = latent_of(net)(x)
    assert z.shape == (2, 512)
    assert torch.equal(z, shown(net, net.stages, x).mean((2, 3)))


def test_reading_latents_leaves_no_trace() -> None:
    net = SmallNet(side=8).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, random = torch.rand(4, 3, 8, 8), torch.get_rng_state()
    z = latent_of(net)(x)
    assert net.training and net.norm.training and not z.requires_grad
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_net_without_a_linear_layer_is_refused() -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten())
    with pytest.raises(RefusalError, match="linear layer"):
        make(base=convolutional)


# The generator


def test_the_face_generator_has_the_published_layers() -> None:
    with torch.device("meta"):
        net = Generator(4096, 128)
    wanted = 4096 * 8192 + (64 * 3 + 3)
    for i, o, count in ((512, 512, 3), (512, 512, 3), (512, 256, 3), (256, 128, 2), (128, 64, 2)):
        wanted += (4 * i + 3) * i + (9 * i + 3) * o + (count - 1) * (9 * o + 3) * o
    assert sum(p.numel() for p in net.parameters()) == wanted


def sides(net: Generator) -> list[int]:
    """Return the side of the map after each transposed convolution."""
    seen: list[int] = []
    for layer in net.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
    with torch.no_grad():
        net(torch.rand(2, net.dense.in_features))
    return seen


@settings(max_examples=15, deadline=None)
@given(size=st.integers(2, 70), channels=st.integers(1, 3), width=st.integers(8, 20))
def test_any_size_in_pixels(size: int, channels: int, width: int) -> None:
    x = Generator(5, size, channels, width)(10 * torch.randn(2, 5))
    assert x.shape == (2, channels, size, size)
    assert x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize(("size", "doublings"), [(4, 0), (28, 3), (32, 3), (64, 4), (128, 5), (256, 6)])
def test_a_doubling_for_each_power_of_two(size: int, doublings: int) -> None:
    assert sides(Generator(8, size, width=8)) == [8 * 2**k for k in range(doublings)]


def test_it_learns_to_invert_latents() -> None:
    _, stage, _, _ = three(replace(SMALL, generator_lr=1e-2))
    data = images(24, side=8)
    losses = []
    for epoch in range(25):
        stage.begin_epoch(epoch, data)
        index = torch.randperm(24)
        losses.append(stage.step(data.floats(index), data.labels[index], index, 0.0)["loss"])
    assert losses[-1] < 0.6 * losses[0]
    figures = stage.finish(data, data)
    x = data.floats()
    rebuilt = stage.generator(latent_of(stage.base)(x))
    assert figures["validation l1 error"] == pytest.approx((rebuilt - x).abs().mean().item(), rel=1e-4)
    right = (stage.base(rebuilt).argmax(1) == data.labels).float().mean().item()
    assert figures["accuracy, reconstructed"] == pytest.approx(right)


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_the_generators_loss_written_out(error: str) -> None:
    _, stage, _, _ = three(replace(SMALL, error=error))
    data, index = images(24, side=8), torch.arange(5, 13)
    stage.begin_epoch(0, data)
    x = data.floats(index)
    difference = stage.generator(latent_of(stage.base)(x)) - x
    wanted = difference.abs().mean() if error == "l1" else (difference**2).mean()
    assert stage.step(x, data.labels[index], index, 0.0)["loss"] == pytest.approx(wanted.item(), rel=1e-4)


# The boundary


@given(SEEDS, st.floats(0.1, 100))
@settings(max_examples=30, deadline=None)
def test_attention_lies_between_1_and_e(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    svm = AttentionSvm(7)
    a = svm.attention(scale * torch.randn(9, 7, generator=generator))
    assert (a > 1).all() and (a <= math.e).all()
    torch.testing.assert_close(a.log().sum(1), torch.ones(9))


def test_the_score_and_its_direction_written_out() -> None:
    torch.manual_seed(0)
    svm, z = AttentionSvm(3), torch.randn(4, 3)
    for row, score, direction in zip(z, svm(z), svm.direction(z), strict=True):
        shares = (svm.query.weight @ row + svm.query.bias).tanh().exp()
        a = (shares / shares.sum()).exp()
        w, b = svm.normal.weight[0], svm.normal.bias[0]
        torch.testing.assert_close(score, w @ (a * row) + b)
        torch.testing.assert_close(direction, a * w)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_fitting_is_plain_sgd(batch_size: int) -> None:
    """Against torch's optimiser on all of W, step by step."""
    config = LadConfig(svm_epochs=2, svm_batch_size=batch_size, svm_lr=0.1, svm_c=1.0)
    torch.manual_seed(0)
    svm, z, side = AttentionSvm(6), torch.randn(11, 6), torch.randint(2, (11,)) * 2.0 - 1
    theirs = AttentionSvm(6)
    theirs.load_state_dict(svm.state_dict())
    torch.manual_seed(1)
    fit(svm, z, side, config)
    torch.manual_seed(1)
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(2):
        for index in torch.randperm(11).split(batch_size):
            hinge = (1 - side[index] * theirs(z[index])).clamp(min=0).mean()
            optimiser.zero_grad()
            (hinge + (theirs.normal.weight**2).mean()).backward()
            optimiser.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(svm.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_the_normal_of_separable_classes_is_found() -> None:
    torch.manual_seed(0)
    normal = nn.functional.normalize(torch.randn(20), dim=0)
    z = torch.randn(300, 20)
    z = z + 2 * (z @ normal).sign()[:, None] * normal
    first, second = z[z @ normal < 0], z[z @ normal > 0]
    svm, accuracy = separate(first, second, LadConfig(svm_epochs=4, svm_lr=0.1))
    assert accuracy > 0.98
    cosine = nn.functional.cosine_similarity(svm.direction(z), normal[None])
    assert cosine.min() > 0.9


def test_two_thirds_are_fitted_and_the_others_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(boundary, "fit", lambda _svm, z, side, _config: given_to.append((z, side)))
    z = torch.randn(400, 3)
    svm, accuracy = separate(z[:200], z[200:], LadConfig())
    ((fitted, side),) = given_to
    assert [int((side == s).sum()) for s in (-1, 1)] == [134, 134]
    rows = {tuple(row) for row in fitted.tolist()}
    rest = torch.tensor([tuple(row) not in rows for row in z.tolist()])
    right = (svm(z) > 0) == (torch.arange(400) >= 200)
    assert accuracy == pytest.approx(right[rest].float().mean().item())


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_targets_are_other_classes(seed: int, per_class: int) -> None:
    torch.manual_seed(seed)
    labels = torch.cat([torch.randint(4, (30,)), torch.tensor([5])])
    usable = separable(labels)
    assert 5 not in usable.tolist()
    drawn = draw_targets(labels, usable, per_class)
    assert torch.equal(labels[drawn.image], drawn.source)
    assert (drawn.source != drawn.target).all() and set(drawn.target.tolist()) <= set(usable.tolist())
    assert len(drawn.image.unique()) == len(drawn.image)
    for label in usable.tolist():
        assert int((drawn.source == label).sum()) == min(per_class, int((labels == label).sum()))
    parts = list(drawn.between())
    assert sorted(torch.cat([part.image for *_, part in parts]).tolist()) == sorted(drawn.image.tolist())
    for first, second, part in parts:
        assert first < second
        assert {frozenset(pair) for pair in zip(part.source.tolist(), part.target.tolist(), strict=True)} == {
            frozenset((first, second))
        }


def test_every_other_class_is_drawn() -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(60)
    drawn = draw_targets(labels, separable(labels), 60)
    assert len(set(zip(drawn.source.tolist(), drawn.target.tolist(), strict=True))) == 12


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 1], [0, 1, 2]])
def test_too_few_images_are_refused_before_the_generator_is_trained(labels: list[int]) -> None:
    _, stage, _, _ = three()
    few = images(3, side=8)
    with pytest.raises(RefusalError, match="two images at least of two classes"):
        stage.begin_epoch(0, Images(few.pixels, torch.tensor(labels)))
