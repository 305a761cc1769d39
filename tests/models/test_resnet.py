"""The residual networks: exact counts and shapes, and the answers of constructions that share no code with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet

from ismn_models.classifiers.hardened import initialise
from ismn_models.classifiers.resnet import MEAN, STD, ResNet, resnet18, wide_resnet


def weights(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def resnet18_weights(classes: int, channels: int) -> int:
    """Convolutions, two numbers a channel of each batch norm, the linear layer."""
    total, inputs = 9 * channels * 64 + 2 * 64, 64
    for width in (64, 128, 256, 512):
        total += 9 * inputs * width + 9 * width * width + 2 * 2 * width  # the first block
        total += 2 * 9 * width * width + 2 * 2 * width  # the second
        total += inputs * width + 2 * width if inputs != width else 0  # the first one's shortcut
        inputs = width
    return total + 512 * classes + classes


def wide_weights(classes: int, channels: int, depth: int, widen: int) -> int:
    total, inputs = 9 * channels * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        for block in range((depth - 4) // 6):
            total += 2 * inputs + 9 * inputs * width + 2 * width + 9 * width * width
            total += inputs * width if block == 0 and inputs != width else 0
            inputs = width
    return total + 2 * inputs + inputs * classes + classes


@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (2, 1), (100, 3)])
def test_weight_counts(classes: int, channels: int) -> None:
    assert weights(resnet18(classes, channels)) == resnet18_weights(classes, channels)
    small = wide_resnet(classes, channels, depth=16, widen=2)
    assert weights(small) == wide_weights(classes, channels, 16, 2)


def test_the_published_counts() -> None:
    assert weights(resnet18()) == resnet18_weights(10, 3) == 11_173_962
    with torch.device("meta"):
        assert weights(wide_resnet()) == wide_weights(10, 3, 28, 10) == 36_479_194


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (resnet18, [(64, 32)] * 3 + [(128, 16)] * 2 + [(256, 8)] * 2 + [(512, 4)] * 2),
        (wide_resnet, [(16, 32), *[(160, 32)] * 4, *[(320, 16)] * 4, *[(640, 8)] * 4, *[(640, 8)] * 2]),
    ],
)
def test_shapes_at_32_pixels(build: type, shapes: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        net, x = build(), torch.empty(2, 3, 32, 32)
    seen: list[tuple[int, int]] = []
    for part in (net.stem, *net.stages):
        part.register_forward_hook(lambda _m, _i, out: seen.append((out.shape[1], out.shape[2])))
    assert net(x).shape == (2, 10)
    assert seen == shapes


def shaken(net: nn.Module) -> nn.Module:
    """Return ``net`` in evaluation mode, with statistics and scales that are none of the usual zeros and ones."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return net.eval()


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("size", [8, 32])
def test_resnet18_is_torchvisions_with_the_stem_for_small_images(size: int) -> None:
    torch.manual_seed(0)
    ours = shaken(resnet18())
    theirs = TorchvisionResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    pairs = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(pairs))
    x = torch.rand(2, 3, size, size)
    torch.testing.assert_close(ours(x), theirs.eval()(normalised(x)))


def zagoruyko(net: ResNet, x: Tensor, depth: int) -> Tensor:
    """WRN as a function of its tensors, in the order in which they are used (after szagoruyko/wide-residual-networks).

    o1 = relu(bn(x)); y = conv(relu(bn(conv(o1)))); the sum is y + x, or y + conv1x1(o1) where the width changes.
    """
    tensors: Iterator[Tensor] = iter(net.state_dict().values())

    def norm(x: Tensor) -> Tensor:
        weight, bias, mean, var, _ = (next(tensors) for _ in range(5))
        return F.batch_norm(x, mean, var, weight, bias)

    h = F.conv2d(normalised(x), next(tensors), padding=1)
    for group in range(3):
        for block in range((depth - 4) // 6):
            stride = 2 if group and not block else 1
            first = F.relu(norm(h))
            inner = F.conv2d(first, next(tensors), stride=stride, padding=1)
            inner = F.conv2d(F.relu(norm(inner)), next(tensors), padding=1)
            h = inner + (h if block else F.conv2d(first, next(tensors), stride=stride))
    h = F.relu(norm(h))
    return F.linear(F.avg_pool2d(h, h.shape[-1]).flatten(1), next(tensors), next(tensors))


@pytest.mark.parametrize(("depth", "widen", "size"), [(10, 2, 32), (28, 2, 8)])
def test_wide_resnet_is_the_published_function(depth: int, widen: int, size: int) -> None:
    torch.manual_seed(0)
    net = shaken(wide_resnet(depth=depth, widen=widen))
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(net(x), zagoruyko(net, x, depth), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "size"),
    [(resnet18, 8), (resnet18, 9), *((lambda k, c: wide_resnet(k, c, depth=10, widen=1), n) for n in (8, 9, 28, 33))],
)
def test_any_size_channels_and_classes(build: type, size: int) -> None:
    net = build(2, 1)
    logits = net(torch.rand(2, 1, size, size))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_fresh_weights_are_drawn_as_the_first_were() -> None:
    torch.manual_seed(0)
    net = shaken(resnet18())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    initialise(net, net, "fresh")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight.shape[2] * module.weight.shape[3]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert not module.running_mean.any()  # type: ignore[union-attr,operator]
            assert bool((module.weight == 1).all())
    assert not any(torch.equal(before[name], tensor) for name, tensor in net.named_parameters())
