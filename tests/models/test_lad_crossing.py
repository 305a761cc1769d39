"""LAD: the way across the boundary, and the faults of the public code on request."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_lad import SMALL, Decoder, Flat, three
from small_systems import images
from torch import Tensor, nn

from ismn_models.classifiers.resnet import Normalise
from ismn_models.classifiers.table1 import Table1
from ismn_models.lad.boundary import Generated, Targets, cross
from ismn_models.lad.compat import PublicCode, Reading, unnormalised
from ismn_models.lad.config import LadConfig
from ismn_models.lad.nets import AttentionSvm


@pytest.fixture
def linear() -> tuple[Flat, AttentionSvm, Tensor]:
    """A classifier, an SVM with its normal, and images on both sides of the boundary."""
    torch.manual_seed(0)
    net, svm, x = Flat(), AttentionSvm(12), torch.rand(40, 3, 2, 2)
    with torch.no_grad():
        net.out.bias -= net(torch.full((1, 3, 2, 2), 0.5))[0]
        svm.normal.weight.copy_(net.out.weight[1:] - net.out.weight[:1])
    return net, svm, x


def test_steps_cross_in_the_direction_that_is_asked_for(linear: tuple[Flat, AttentionSvm, Tensor]) -> None:
    net, svm, x = linear
    z = x.flatten(1)
    for way in (1, -1):
        scores = [svm(z + way * eps * svm.direction(z)) * way for eps in (0.0, 0.5, 1.0, 2.0)]
        margins = [(net.out(z + way * eps * svm.direction(z)) @ torch.tensor([-1.0, 1.0])) * way for eps in (0, 0.5, 2)]
        for values in (scores, margins):
            assert all((later > earlier).all() for earlier, later in pairwise(values))


def test_images_flip_at_the_first_rung_that_does_it(linear: tuple[Flat, AttentionSvm, Tensor]) -> None:
    """By brute force: each image alone, each rung in turn."""
    net, svm, x = linear
    config = LadConfig(eps_step=0.2, eps_max=11)
    way = 1 - 2.0 * net(x).argmax(1)
    made = cross(Reading(net), Decoder(), svm, x, way, config)
    assert made.flipped.float().mean() > 0.9
    for k, image in enumerate(x):
        z = image.flatten()[None]
        for eps in config.ladder():
            beyond = (255 * Decoder()(z + eps * way[k] * svm.direction(z))).round() / 255
            if net(beyond).argmax() != net(image[None]).argmax():
                break
        assert made.eps[k] == pytest.approx(eps)
        assert torch.equal(made.pixels[k], (255 * beyond[0]).round().to(torch.uint8))
    changed = net(made.pixels.float() / 255).argmax(1) != net(x).argmax(1)
    assert torch.equal(changed, made.flipped)
    assert not made.misread.any()


def test_what_does_not_flip_is_kept_as_it_is_on_the_last_rung(linear: tuple[Flat, AttentionSvm, Tensor]) -> None:
    net, svm, x = linear
    away = 2.0 * net(x).argmax(1) - 1
    made = cross(Reading(net), Decoder(), svm, x, away, LadConfig(eps_max=1.0))
    assert not made.flipped.any() and (made.eps == 1.0).all()
    z = x.flatten(1)
    wanted = (255 * Decoder()(z + away[:, None] * svm.direction(z))).round()
    assert torch.equal(made.pixels, wanted.to(torch.uint8))


def test_a_bad_reconstruction_is_told_apart_from_a_step(linear: tuple[Flat, AttentionSvm, Tensor]) -> None:
    net, svm, x = linear

    class Constant(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.ones(len(z), 3, 2, 2)

    made = cross(Reading(net), Constant(), svm, x, torch.ones(len(x)), LadConfig())
    others = net(x).argmax(1) != net(torch.ones(1, 3, 2, 2)).argmax(1)
    assert 0 < others.sum() < len(x)
    assert torch.equal(made.misread, others) and torch.equal(made.flipped, others)


def test_the_stage_makes_an_image_of_each_one_drawn() -> None:
    _, generator, stage, hardening = three()
    told: list[tuple[int, int]] = []
    stage.tell = lambda done, of: told.append((done, of))
    data = images(30, side=8)
    figures = stage.finish(data, images(9, seed=1, side=8))
    assert hardening.examples is stage.examples
    assert figures["images"] == len(stage.examples.index) == 15 == told[-1][0] == told[-1][1]
    assert figures["boundaries"] == 3
    assert stage.examples.pixels.shape == (15, 3, 8, 8)
    counts = data.labels[stage.examples.index].bincount().tolist()
    assert counts == [5, 5, 5]
    assert not generator.generator.training
    before = stage.base(data.floats(stage.examples.index)).argmax(1)
    after = stage.base(stage.examples.pixels.float() / 255).argmax(1)
    assert figures["flipped"] == pytest.approx((before != after).float().mean().item())


def test_the_other_way_for_the_other_class(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, stage, _ = three()
    ways: list[tuple[Tensor, Tensor]] = []
    data = images(30, side=8)

    def spy(_r: Reading, _g: nn.Module, _s: AttentionSvm, x: Tensor, way: Tensor, _c: LadConfig) -> Generated:
        ways.append((x, way))
        flags = torch.zeros(len(x), dtype=torch.bool)
        return Generated((255 * x).to(torch.uint8), way, flags, flags)

    monkeypatch.setattr("ismn_models.lad.training.cross", spy)
    targets = Targets(torch.arange(4), torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 1, 0]))
    ((index, _),) = stage.crossed(AttentionSvm(4), targets, data)
    assert index.tolist() == [0, 1, 2, 3]
    assert ways[0][1].tolist() == [1, -1, 1, -1]


class Centred(nn.Module):
    """A net whose latents are the normalised pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise((0.2, 0.5, 0.7), (0.1, 0.3, 0.2))
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.normalise(x).flatten(1))
        return logits


def test_fault_1_latents_of_images_that_are_not_normalised() -> None:
    net, x = Centred(), torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(PublicCode(net).latents(x), x.flatten(1))
    torch.testing.assert_close(Reading(net).latents(x), net.normalise(x).flatten(1))
    assert torch.equal(PublicCode(net).answers(x), net.out(x.flatten(1)).argmax(1))
    table1, x = Table1(3, 3), torch.rand(2, 3, 32, 32)
    first: list[Tensor] = []
    table1.features[0].register_forward_pre_hook(lambda _m, given: first.append(given[0]))
    table1(unnormalised(table1, x))
    torch.testing.assert_close(first[0], x)
    assert unnormalised(Flat(), x) is x


def test_fault_2_generated_images_on_the_scale_of_bytes() -> None:
    torch.manual_seed(1)
    net, x = Centred(), torch.rand(50, 3, 2, 2)
    assert torch.equal(PublicCode(net).generated(x), net.out(255 * x.flatten(1)).argmax(1))
    assert torch.equal(Reading(net).generated(x), net(x).argmax(1))
    assert not torch.equal(PublicCode(net).generated(x), Reading(net).generated(x))


@pytest.mark.parametrize("compat", [False, True])
def test_fault_3_the_svm_on_the_other_split(compat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, stage, _ = three(replace(SMALL, compat=compat))
    data, other = images(30, side=8), images(30, seed=7, side=8)
    fitted: list[Tensor] = []

    def spy(first: Tensor, second: Tensor, config: LadConfig) -> tuple[AttentionSvm, float]:
        fitted.extend([first, second])
        return AttentionSvm(first.shape[1]), 1.0

    monkeypatch.setattr("ismn_models.lad.training.separate", spy)
    stage.finish(data, other)
    own = {tuple(z) for z in stage.reading.latents((other if compat else data).floats()).tolist()}
    assert all(any(torch.allclose(torch.tensor(z), row) for z in own) for row in torch.cat(fitted))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12))
def test_fault_4_one_logit_against_a_half(logits: list[float]) -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.tensor(logits)[:, None]
            return torch.cat([torch.zeros_like(z), z], 1)

    x = torch.zeros(len(logits), 1, 1, 1)
    assert PublicCode(Given()).classes(x).tolist() == [int(z >= 0.5) for z in logits]
    assert Reading(Given()).classes(x).tolist() == [int(z > 0) for z in torch.tensor(logits).tolist()]


def test_fault_4_is_none_where_two_logits_are_given() -> None:
    torch.manual_seed(0)
    net, x = Flat(2), torch.rand(40, 3, 2, 2)
    assert torch.equal(PublicCode(net).classes(x), net(x).argmax(1))


def test_the_switch_reaches_every_stage() -> None:
    for compat, reading in ((False, Reading), (True, PublicCode)):
        _, generator, edge, _ = three(replace(SMALL, compat=compat))
        assert type(generator.reading) is type(edge.reading) is reading
