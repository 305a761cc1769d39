"""LAD: hardening on what was generated, and the whole of it, killed anywhere."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_lad import SMALL, make, three
from small_systems import SmallNet, check_every_kill, images, train
from torch import Tensor, nn

from ismn_models.crafting import pgd
from ismn_models.images import Images
from ismn_models.lad.config import LadConfig
from ismn_models.lad.system import build
from ismn_models.lad.training import HardeningStage, stages
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape


def prepared(config: LadConfig = SMALL, n: int = 30) -> tuple[Pipeline, HardeningStage, Images]:
    system, _, edge, stage = three(config)
    data = images(n, side=8)
    edge.finish(data, data)
    stage.begin_epoch(0, data)
    return system, stage, data


def test_the_loss_written_out() -> None:
    _, stage, data = prepared()
    rows = torch.tensor([3, 8, 1, 12])
    index = stage.examples.index[rows]
    x, y, made = data.floats(index), data.labels[index], stage.examples.pixels[rows].float() / 255
    stage.net.train()
    wanted = 0.5 * nn.functional.cross_entropy(stage.net(made), y) + 0.5 * nn.functional.cross_entropy(stage.net(x), y)
    assert stage.step(x, y, index, 0.0)["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_an_epoch_takes_each_generated_image_once_in_batches_of_about_the_size_wanted() -> None:
    _, stage, data = prepared(n=60)
    seen: list[int] = []
    stage.net.register_forward_hook(lambda _m, given, _o: seen.append(len(given[0])))
    assert stage.batch_size == 8 * 60 // 15
    for index in torch.randperm(60).split(stage.batch_size):
        stage.step(data.floats(index), data.labels[index], index, 0.0)
    assert sum(seen) == 2 * 15


def test_images_that_nothing_was_generated_from_are_left_out() -> None:
    _, stage, data = prepared()
    rest = torch.tensor([k for k in range(30) if k not in stage.examples.index.tolist()])
    before = {name: value.clone() for name, value in stage.net.state_dict().items()}
    assert stage.step(data.floats(rest), data.labels[rest], rest, 0.0) == {}
    assert all(torch.equal(value, before[name]) for name, value in stage.net.state_dict().items())


def test_a_step_is_as_long_at_the_end() -> None:
    moved = []
    for progress in (0.0, 0.99):
        _, stage, data = prepared()
        before = stage.net.out.weight.detach().clone()
        index = stage.examples.index
        stage.step(data.floats(index), data.labels[index], index, progress)
        moved.append(stage.net.out.weight.detach() - before)
    assert torch.equal(*moved) and moved[0].abs().max() > 0


def test_it_starts_from_the_base_and_leaves_the_base_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(3)
    base = SmallNet(side=8)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    system, stage, _ = prepared()
    for name, value in system.base.state_dict().items():
        assert torch.equal(value, stage.net.state_dict()[name])
    trained = train(lambda: make(base=base), tmp_path / "c.pt")
    assert all(torch.equal(value, before[name]) for name, value in trained.base.state_dict().items())
    assert not torch.equal(trained.classifier.out.weight, before["out.weight"])


def test_generator_and_boundary_are_no_part_of_the_system() -> None:
    system, *_ = three()
    names = {name.split(".")[0] for name in system.state_dict()}
    assert names == {"base", "defence", "classifier"} == set(system.parts())
    assert list(system.defence.state_dict()) == ["threshold"]


def test_hardening_makes_right_what_was_generated() -> None:
    """Of images that the classifier to be hardened reads otherwise, by construction."""
    _, stage, data = prepared(replace(SMALL, per_class=10))
    index = stage.examples.index
    first = stage.step(data.floats(index), data.labels[index], index, 0.0)
    for _ in range(60):
        last = stage.step(data.floats(index), data.labels[index], index, 0.0)
    assert last["loss"] < 0.7 * first["loss"]
    assert last["accuracy, generated"] > first["accuracy, generated"]


def test_closing_figures() -> None:
    _, stage, data = prepared()
    torch.manual_seed(5)
    figures = stage.finish(data, data)
    x, y = data.floats(), data.labels
    assert figures["validation accuracy, clean"] == pytest.approx((stage.net(x).argmax(1) == y).float().mean().item())
    torch.manual_seed(5)
    attacked = pgd(stage.net, x, y, 8 / 255, 10, 2 / 255)
    right = (stage.net(attacked).argmax(1) == y).float().mean().item()
    assert figures["validation accuracy, PGD-10 at 8/255"] == pytest.approx(right)


class OneLogit(SmallNet):
    def __init__(self) -> None:
        super().__init__(classes=1, side=8)

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return torch.cat([torch.zeros_like(z), z], 1)


@pytest.mark.parametrize("compat", [False, True])
def test_two_classes_of_one_logit(compat: bool) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, compat=compat)
    system = build(config, Shape(2, 3, 8), OneLogit())
    generator, edge, hardening = stages(system, config)
    whole = images(30, side=8)
    data = whole.take(whole.labels < 2)
    system.eval()
    generator.begin_epoch(0, data)
    figures = edge.finish(data, data)
    assert figures["boundaries"] == 1 and figures["images"] == 10
    hardening.begin_epoch(0, data)
    index = torch.arange(len(data))
    assert math.isfinite(hardening.step(data.floats(), data.labels, index, 0.0)["loss"])
    assert system(data.floats()).shape == (20, 2)


def test_killed_anywhere_and_continued(tmp_path: Path) -> None:
    """Also between the stages, where generator and generated images lie in what the finished stages leave."""
    config = replace(SMALL, generator_epochs=1, svm_epochs=1, eps_max=0.3)
    check_every_kill(lambda: make(config), tmp_path)
