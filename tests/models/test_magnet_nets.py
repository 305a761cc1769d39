"""MagNet's own classifiers: sizes, first weights, and the published schedule of their training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_systems import check_every_kill
from torch import nn

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.magnet_nets import magnet_cifar10, magnet_mnist
from ismn_models.classifiers.nets import Reduced, base_net
from ismn_models.classifiers.training import CleanTraining, build, stages
from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

PUBLISHED = ClassifierConfig(arch="magnet-mnist", lr=0.01, schedule="inverse-time", shift=0, weight_decay=0.0)


def test_layers_and_weights_for_mnist() -> None:
    net = magnet_mnist()
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.Linear)
    x, sides = torch.rand(2, 1, 28, 28), []
    for layer in net:
        x = layer(x)
        if isinstance(layer, kinds):
            sides.append(tuple(x.shape[1:]))
    maps = [(32, 26, 26), (32, 24, 24), (32, 12, 12), (64, 10, 10), (64, 8, 8), (64, 4, 4)]
    assert sides == [*maps, (200,), (200,), (10,)]
    assert sum(p.numel() for p in net.parameters()) == 312_202
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == [0.5]


def test_layers_and_weights_for_cifar10() -> None:
    net = magnet_cifar10()
    widths = [(c.out_channels, c.kernel_size[0]) for c in net if isinstance(c, nn.Conv2d)]
    assert widths == [(96, 3)] * 3 + [(192, 3)] * 4 + [(192, 1), (10, 1)]
    assert sum(p.numel() for p in net.parameters()) == 1_369_848
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("arch", ["magnet-mnist", "magnet-cifar10"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 17), (3, 100)])
def test_any_images_and_number_of_classes(arch: str, channels: int, size: int) -> None:
    config = ClassifierConfig(arch=arch, side=48)  # type: ignore[arg-type]
    shape = Shape(4, channels, size)
    assert config.resolved(shape) == config
    net = base_net(shape, config=config)
    assert isinstance(net, Reduced) == (size > 48)
    assert net(torch.rand(2, channels, size, size)).shape == (2, 4)


@pytest.mark.parametrize(("size", "side"), [(15, 128), (256, 8)])
def test_images_that_leave_nothing_of_the_map_are_refused(size: int, side: int) -> None:
    config = ClassifierConfig(arch="magnet-mnist", side=side)
    with pytest.raises(ValueError, match="16 pixels a side"):
        config.resolved(Shape(10, 1, size))


@pytest.mark.parametrize("net", [magnet_mnist(), magnet_cifar10()])
def test_new_weights_are_glorots(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            area = layer.weight[0, 0].numel()
            bound = (6 / (area * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.3)
            assert layer.bias is not None and not layer.bias.any()


def digits(n: int = 24) -> Images:
    pixels = torch.randint(0, 256, (n, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(n) % 3, mirror=False)


def test_the_published_training_is_plain_sgd_with_keras_decay() -> None:
    """Against SGD written out: v = 0.9 v - lr g, w += 0.9 v - lr g, lr = 0.01 / (1 + 1e-6 t) (Keras, nesterov)."""
    torch.manual_seed(0)
    pipeline, data = build(PUBLISHED, Shape(3, 1, 16)), digits()
    (stage,) = stages(pipeline, PUBLISHED)
    assert isinstance(stage, CleanTraining)
    stage.mirror = False
    stage.steps = 10**6  # where the decay has halved the rate
    weights = [p.detach().clone() for p in pipeline.base.parameters()]
    speeds = [torch.zeros_like(p) for p in weights]
    for t in range(3):
        torch.manual_seed(t)  # of the drop-out
        with torch.no_grad():
            expected = gradients(pipeline, data, t)
            lr = 0.01 / (1 + 1e-6 * (10**6 + t))
            for weight, speed, gradient in zip(weights, speeds, expected, strict=True):
                speed.mul_(0.9).sub_(lr * gradient)
                weight.add_(0.9 * speed - lr * gradient)
        torch.manual_seed(t)
        stage.step(data.floats(), data.labels, torch.arange(24), t / 3)
    for own, wanted in zip(pipeline.base.parameters(), weights, strict=True):
        torch.testing.assert_close(own.detach(), wanted, atol=1e-5, rtol=1e-3)


def gradients(pipeline: Pipeline, data: Images, seed: int) -> tuple[torch.Tensor, ...]:
    with torch.enable_grad():
        net = pipeline.base.train()
        torch.randint(0, 1, (2, 24, 1))  # what the shift by nothing draws
        torch.rand(24, 1)
        loss = nn.functional.cross_entropy(net(data.floats()), data.labels)
        return torch.autograd.grad(loss, list(net.parameters()))


def test_images_are_shifted_as_far_as_is_said() -> None:
    (stage,) = stages(build(PUBLISHED, Shape(3, 1, 16)), PUBLISHED)
    stage.mirror = False
    x = digits().floats()
    assert torch.equal(stage.augment(x, PUBLISHED.shift), x)
    seen: list[torch.Tensor] = []
    for shift in (0, 2):
        config = ClassifierConfig(arch="magnet-mnist", shift=shift)
        (stage,) = stages(pipeline := build(config, Shape(3, 1, 16)), config)
        stage.mirror = False
        pipeline.base.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
        stage.step(x, digits().labels, torch.arange(24), 0.0)
    assert torch.equal(seen[0], x)
    assert not torch.equal(seen[1], x)


def test_the_step_survives_a_kill(tmp_path: Path) -> None:
    config = ClassifierConfig(epochs=3, batch_size=8, schedule="inverse-time", lr=0.01, shift=0)

    def make() -> tuple[Pipeline, list[Stage]]:
        pipeline = build(config, Shape(3, 3, 8), nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
        (stage,) = stages(pipeline, config)
        assert isinstance(stage, CleanTraining)
        stage.steps = 10**7
        return pipeline, [stage, Last()]

    check_every_kill(make, tmp_path)


class Last(Stage):
    """A stage behind: its turn comes after a kill too."""

    name = "last"

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Look at the images."""
        return {"seen": float(sum(len(y) for _, y in self.watched(validation, 4)))}
