"""Residual networks in the form that robustness papers use on CIFAR: a 3x3 stem without pooling.

`resnet18` is the pre-1x1-stem variant of He et al. 2016 (CVPR) with widths 64 to 512, as in Madry-style training
codes (11,173,962 weights for 10 classes); `wide_resnet` is WRN-28-10 of Zagoruyko and Komodakis 2016 without dropout
(36,479,194). Input is normalised inside by CIFAR-10's mean and standard deviation (1/2 and 1/4 for other channels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Normalise(nn.Module):
    """(x - mean) / std per channel, for x [N, C, H, W] in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images, same shape."""
        return (x - self.mean) / self.std


def normalise(channels: int) -> Normalise:
    """Return CIFAR-10's normalisation, or a plain centring where images have other channels."""
    return Normalise(MEAN, STD) if channels == len(MEAN) else Normalise((0.5,) * channels, (0.25,) * channels)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        h = self.bn1(self.conv1(x)).relu()
        result: Tensor = (self.bn2(self.conv2(h)) + self.shortcut(x)).relu()
        return result


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus shortcut (pre-activation)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        h = self.bn1(x).relu()
        shortcut = x if self.shortcut is None else self.shortcut(h)
        result: Tensor = self.conv2(self.bn2(self.conv1(h)).relu()) + shortcut
        return result


class ResNet(nn.Module):
    """Stem, stages of blocks, global average pool, one linear layer."""

    def __init__(self, num_classes: int, channels: int, stem: nn.Module, stages: nn.Module, width: int) -> None:
        super().__init__()
        self.normalise = normalise(channels)
        self.stem, self.stages = stem, stages
        self.linear = nn.Linear(width, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions' weights afresh (He et al. 2015); the other layers draw their own."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, H, W] in [0, 1]."""
        h = self.stages(self.stem(self.normalise(x)))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


def resnet18(num_classes: int = 10, channels: int = 3) -> ResNet:
    """Return ResNet-18 for small images, any size from 8 pixels a side."""
    stem = nn.Sequential(nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    widths, strides = (64, 128, 256, 512), (1, 2, 2, 2)
    blocks: list[nn.Module] = []
    inputs = 64
    for width, stride in zip(widths, strides, strict=True):
        blocks += [BasicBlock(inputs, width, stride), BasicBlock(width, width, 1)]
        inputs = width
    return ResNet(num_classes, channels, stem, nn.Sequential(*blocks), inputs)


def wide_resnet(num_classes: int = 10, channels: int = 3, depth: int = 28, widen: int = 10) -> ResNet:
    """Return WRN-``depth``-``widen``; ``depth`` is 6 n + 4 with n blocks in each of three stages."""
    inputs = 16
    stem = nn.Conv2d(channels, inputs, 3, 1, 1, bias=False)
    blocks: list[nn.Module] = []
    for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
        for number in range((depth - 4) // 6):
            blocks.append(WideBlock(inputs, width, stride if number == 0 else 1))
            inputs = width
    stages = nn.Sequential(*blocks, nn.BatchNorm2d(inputs), nn.ReLU())
    return ResNet(num_classes, channels, stem, stages, inputs)
