"""Architectures of the base classifier by name. Each takes images [N, C, n, n] in [0, 1] and returns logits [N, K]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ismn_models.classifiers.celebanet import CelebANet
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.magnet_nets import magnet_cifar10, magnet_mnist
from ismn_models.classifiers.reference import Reference
from ismn_models.classifiers.resnet import resnet18, wide_resnet
from ismn_models.classifiers.table1 import Table1
from ismn_models.shape import Shape

Build = Callable[[ClassifierConfig, Shape], nn.Module]

ARCHITECTURES: dict[str, Build] = {
    "table1": lambda config, shape: Table1(shape.classes, shape.channels, config.padding),
    "celebanet": lambda config, shape: CelebANet(shape.classes, shape.channels),
    "magnet-mnist": lambda config, shape: magnet_mnist(shape.classes, shape.channels, min(shape.size, config.side)),
    "magnet-cifar10": lambda config, shape: magnet_cifar10(shape.classes, shape.channels),
    "resnet18": lambda config, shape: resnet18(shape.classes, shape.channels),
    "wrn-28-10": lambda config, shape: wide_resnet(shape.classes, shape.channels),
}


class Reduced(nn.Module):
    """A classifier behind a reduction of large images, by area averaging: differentiable, and part of the system."""

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, n, n] in [0, 1]."""
        logits: Tensor = self.net(nn.functional.interpolate(x, size=(self.side, self.side), mode="area"))
        return logits


def base_net(shape: Shape, base: nn.Module | None = None, config: ClassifierConfig | None = None) -> nn.Module:
    """Return ``base``, or where none is given an untrained net by ``config`` (Table 1 unless it says otherwise)."""
    if base is not None:
        return base
    config = config or ClassifierConfig()
    net = _library_net(config, shape) if ":" in config.arch else ARCHITECTURES[config.arch](config, shape)
    return Reduced(net, config.side) if shape.size > config.side else net


def _library_net(config: ClassifierConfig, shape: Shape) -> nn.Module:
    return Reference(config.arch, shape.classes, shape.channels, min(shape.size, config.side))
