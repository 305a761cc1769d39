"""Adversarial training: its attacks against references, what it buys, its guard, and its start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_systems import SmallNet, check_every_kill, images, train
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings
from ismn_models.adversarial.config import AdversarialConfig
from ismn_models.adversarial.system import build
from ismn_models.adversarial.training import AdversarialTraining, CollapseGuard, stages
from ismn_models.classifiers.hardened import initialise
from ismn_models.classifiers.table1 import Table1
from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.refusal import RefusalError
from ismn_models.shape import Shape
from ismn_models.training import Stage

SMALL = AdversarialConfig(epochs=2, batch_size=8, steps=2, start="base")
FAST = replace(SMALL, method="fast", steps=None)


def stage_of(config: AdversarialConfig = SMALL, seed: int = 0) -> AdversarialTraining:
    torch.manual_seed(seed)
    (stage,) = stages(build(config, Shape(3, 3), SmallNet(side=8)), config)
    assert isinstance(stage, AdversarialTraining)
    return stage


def gradient_sign(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    nn.functional.cross_entropy(net.eval()(point), y).backward()
    assert point.grad is not None
    return point.grad.sign()


def test_defaults_are_madrys() -> None:
    config = AdversarialConfig()
    assert (config.eps, config.attack_steps(), config.attack_step_size()) == (8 / 255, 7, 2 / 255)


def test_the_attack_is_madrys_pgd() -> None:
    stage, data = stage_of(), images(9, side=8)
    x, y = data.floats(), data.labels
    torch.manual_seed(4)
    got = stage.attack(x, y)
    torch.manual_seed(4)
    wanted = (x + 8 / 255 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(2):
        wanted = wanted + 2 / 255 * gradient_sign(stage.net, wanted, y)
        wanted = torch.clamp(x + (wanted - x).clamp(-8 / 255, 8 / 255), 0, 1)
    torch.testing.assert_close(got, wanted)


def test_the_fast_attack_is_wongs() -> None:
    """As in the paper's Algorithm 3: delta uniform in the ball, one step of 1.25 eps, back into the ball."""
    stage, data = stage_of(FAST), images(9, side=8)
    x, y, eps = data.floats(), data.labels, 8 / 255
    torch.manual_seed(4)
    got = stage.attack(x, y)
    torch.manual_seed(4)
    delta = torch.clamp(eps * (2 * torch.rand_like(x) - 1), -x, 1 - x)
    delta = (delta + 1.25 * eps * gradient_sign(stage.net, x + delta, y)).clamp(-eps, eps)
    torch.testing.assert_close(got, x + torch.clamp(delta, -x, 1 - x))


def test_a_step_learns_from_attacked_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, data = stage_of(), images(8, side=8)
    seen: list[Tensor] = []
    modes: list[bool] = []
    attack = stage.attack

    def spy(x: Tensor, y: Tensor) -> Tensor:
        seen.append(attack(x, y))
        return seen[-1]

    monkeypatch.setattr(stage, "attack", spy)
    stage.net.register_forward_hook(lambda net, given, _: modes.append(net.training) or seen.append(given[0]))
    stage.step(data.floats(), data.labels, torch.arange(8), 0.0)
    assert modes == [False] * SMALL.attack_steps() + [True]
    assert seen[-1] is seen[-2]


def planted(n: int = 128) -> Images:
    """Two classes, told apart by one strong pixel, right 3 times in 4, and by faint ones that are always right.

    After Tsipras et al. 2019: the faint pixels lie within 8/255 of each other, so only the strong one is robust.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    sign = (2 * labels - 1).float()[:, None, None, None]
    pixels = 0.5 + 0.02 * sign.expand(n, 3, 8, 8).clone()
    right = torch.rand(n, 1, 1, 1, generator=generator) < 0.75
    pixels[:, :, :1, :1] = 0.5 + 0.1 * torch.where(right, sign, -sign)
    return Images((pixels * 255).round().to(torch.uint8), labels)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(20 * (x - 0.5).flatten(1))
        return logits


@pytest.mark.parametrize("method", ["pgd", "fast"])
def test_it_gives_up_what_an_attacker_can_turn_round(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no attack the faint pixels win, and PGD takes all; against 8/255 the strong one is left."""
    monkeypatch.setattr("ismn_models.training.flip_and_shift", lambda x, *_: x)
    data, measured = planted(), {}
    for eps in (1e-6, 8 / 255):
        config = AdversarialConfig(epochs=10, batch_size=16, method=method, eps=eps)
        torch.manual_seed(0)
        (stage,) = stages(build(config, Shape(2, 3), Linear()), config)
        assert isinstance(stage, AdversarialTraining)
        for epoch in range(10):
            stage.begin_epoch(epoch, data)
            for index in torch.randperm(128).split(16):
                stage.step(data.floats(index), data.labels[index], index, epoch / 10)
        clean = stage.finish(data, data)["validation accuracy, clean"]
        stage.config = AdversarialConfig(eps=8 / 255)
        measured[eps] = (clean, stage.robust_accuracy(data.batches(64)))
    strong_pixel = ((data.pixels[:, 0, 0, 0] > 127) == (data.labels == 1)).float().mean().item()
    assert measured[1e-6] == (1.0, 0.0)
    assert measured[8 / 255][1] == pytest.approx(strong_pixel)


def test_closing_figures_are_accuracies_on_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_models.adversarial.training.MEASURED", 10)
    stage, data = stage_of(), images(30, side=8)
    told: list[tuple[int, int]] = []
    stage.tell = lambda done, of: told.append((done, of))
    torch.manual_seed(2)
    figures = stage.finish(data, data)
    x, y = data.floats(slice(10)), data.labels[:10]
    clean = (stage.net(x).argmax(1) == y).float().mean().item()
    assert figures["validation accuracy, clean"] == pytest.approx(clean)
    assert figures["validation accuracy, PGD-10"] <= clean
    assert told == [(10, 10)]
    exhaustive = replace(SMALL, eps=1.0)
    assert stage_of(exhaustive).finish(data, data)["validation accuracy, PGD-10"] < 0.2


def fell(stage: AdversarialTraining, data: Images, accuracies: list[float]) -> list[dict[str, float]]:
    """Train a step an epoch; PGD accuracy is ``accuracies`` at the end of each."""
    left = iter(accuracies)
    stage.robust_accuracy = lambda batches: next(left)
    figures = []
    for epoch in range(len(accuracies)):
        stage.begin_epoch(epoch, data)
        figures.append(stage.step(data.floats(), data.labels, torch.arange(len(data)), 0.2))
    return figures


@pytest.mark.parametrize(
    ("accuracies", "kept"), [([0.3, 0.4, 0.1, 0.5], 2), ([0.3, 0.05, 0.3, 0.3], 1), ([0.3, 0.2, 0.1, 0.05], None)]
)
def test_a_collapse_ends_the_training_and_gives_back_what_was_before(
    accuracies: list[float], kept: int | None
) -> None:
    data, weights = images(9, side=8), []
    stage = stage_of(FAST)
    descend = stage.descend

    def remember(loss: Tensor, progress: float) -> None:
        descend(loss, progress)
        weights.append(stage.net.conv.weight.detach().clone())

    stage.descend = remember
    figures = fell(stage, data, [*accuracies, 1.0])
    trained = len(accuracies) + 1 if kept is None else kept + 1
    assert [bool(f) for f in figures] == [True] * trained + [False] * (len(figures) - trained)
    assert len(weights) == trained
    expected = weights[-1] if kept is None else weights[kept - 1]
    assert torch.equal(stage.net.conv.weight, expected)
    stage.robust_accuracy = lambda batches: 0.9
    closing = stage.finish(data, data)
    assert closing.get("epochs before the collapse") == kept


def test_a_collapse_in_the_last_epoch_is_seen_at_the_end() -> None:
    stage, data = stage_of(FAST), images(9, side=8)
    fell(stage, data, [0.4, 0.4])
    stage.robust_accuracy = lambda batches: 0.0
    assert stage.finish(data, data)["epochs before the collapse"] == 1


def test_the_guard_is_checkpointed() -> None:
    stage, other, data = stage_of(FAST), stage_of(FAST, seed=1), images(9, side=8)
    fell(stage, data, [0.4, 0.4, 0.1, 0.4])
    other.load_state(stage.state())
    assert isinstance(other.guard, CollapseGuard) and other.guard.collapsed
    assert other.step(data.floats(), data.labels, torch.arange(9), 0.5) == {}
    assert torch.equal(other.guard.kept.conv.weight, stage.net.conv.weight)


def test_steps_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(UsageError, match="fast takes one step"):
        build_settings(AdversarialConfig, {"method": "fast", "steps": 3}, "settings of at")
    assert build_settings(AdversarialConfig, {"method": "pgd", "steps": 3}, "settings of at").attack_steps() == 3


def test_the_answer_is_the_hardened_nets_alone() -> None:
    system = build(SMALL, Shape(3, 3), SmallNet(side=8)).eval()
    x = images(6, side=8).floats()
    with torch.no_grad():
        system.classifier.out.bias.add_(torch.tensor([5.0, 0.0, 0.0]))
        decision = system.decide(x)
        assert torch.equal(decision.logits, system.classifier(x))
        assert not torch.equal(decision.logits, system.base(x))
    assert not (decision.flagged | decision.rejected).any()
    assert set(system.parts()) == {"base", "defence", "classifier"}


def test_a_system_that_answers_with_its_base_is_refused() -> None:
    system = build(SMALL, Shape(3, 3), SmallNet(side=8))
    with pytest.raises(TypeError, match="answers with its base"):
        stages(Pipeline(system.base, system.defence), SMALL)


@pytest.mark.parametrize("start", ["base", "fresh"])
def test_the_start_is_the_bases_weights_or_new_ones(start: str) -> None:
    """The base may have been trained after the system was built: its weights are taken when the stage begins."""
    config = replace(SMALL, start=start)
    begun = []
    for _ in range(2):
        stage = stage_of(config)
        with torch.no_grad():
            for parameter in stage.base.parameters():
                parameter.add_(1.0)
            stage.base.norm.running_mean.add_(1.0)
        torch.manual_seed(3)
        stage.begin_epoch(0, images(9, side=8))
        begun.append(stage.net.state_dict())
        assert torch.equal(begun[-1]["conv.weight"], stage.base.state_dict()["conv.weight"]) == (start == "base")
        assert bool(begun[-1]["norm.running_mean"].any()) == (start == "base")
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])


def test_new_weights_of_table_1_are_drawn_as_at_its_making() -> None:
    net, base = Table1(3), Table1(3)
    initialise(net, base, "fresh")
    assert net.output.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert net.dense.weight.std().item() == pytest.approx((2 / 6400) ** 0.5, rel=0.01)
    assert not net.dense.bias.any()
    assert not torch.equal(net.dense.weight, base.dense.weight)


def test_weights_that_cannot_be_drawn_anew_are_not_passed_off_as_new() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(1))

    with pytest.raises(RefusalError, match="Scale, which cannot draw new weights"):
        initialise(Scale(), Scale(), "fresh")


@pytest.mark.parametrize("config", [replace(SMALL, start="fresh"), FAST])
def test_killed_anywhere_and_continued(config: AdversarialConfig, tmp_path: Path) -> None:
    def make() -> tuple[Pipeline, list[Stage]]:
        system = build(config, Shape(3, 3), SmallNet(side=8))
        return system, stages(system, config)

    check_every_kill(make, tmp_path)


def test_the_base_is_left_alone(tmp_path: Path) -> None:
    def make() -> tuple[Pipeline, list[Stage]]:
        system = build(SMALL, Shape(3, 3), SmallNet(side=8))
        return system, stages(system, SMALL)

    torch.manual_seed(0)
    before = make()[0].base.state_dict()
    system = train(make, tmp_path / "checkpoint.pt")
    assert all(torch.equal(value, before[name]) for name, value in system.base.state_dict().items())
    assert not torch.equal(system.classifier.out.weight, system.base.out.weight)
