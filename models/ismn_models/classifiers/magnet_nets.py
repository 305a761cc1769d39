"""The classifiers that MagNet was tried on (Meng and Chen 2017), after Carlini and Wagner's fork of its code.

    mnist:   (Conv3-32-ReLU) x2, MaxPool2, (Conv3-64-ReLU) x2, MaxPool2,
             Dense200-ReLU, Dropout 0.5, Dense200-ReLU, Dense(K)
    cifar10: (Conv3-96-ReLU) x3, MaxPool2, (Conv3-192-ReLU) x3, MaxPool2,
             Conv3-192-ReLU, Conv1-192-ReLU, Conv1-K-ReLU, global average, Dense(K)

mnist's convolutions are 'valid'. That cifar10's are 'same', and that a ReLU follows its last one, is our reading.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn


class MagnetNet(nn.Sequential):
    """A chain of layers with first weights as Keras draws them (Glorot and Bengio 2010, uniform), biases zero."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights afresh."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)


def magnet_mnist(classes: int = 10, channels: int = 1, size: int = 28) -> MagnetNet:
    """Return the net for MNIST, 312,202 weights: logits [N, K] for x [N, C, n, n] in [0, 1], n at least 16."""
    side = ((size - 4) // 2 - 4) // 2
    return MagnetNet(
        *_convolutions(channels, 32, 32, padding=0),
        nn.MaxPool2d(2),
        *_convolutions(32, 64, 64, padding=0),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * side * side, 200),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


def magnet_cifar10(classes: int = 10, channels: int = 3) -> MagnetNet:
    """Return the net for CIFAR-10, 1,369,848 weights: logits [N, K] for x [N, C, n, n] in [0, 1]."""
    return MagnetNet(
        *_convolutions(channels, 96, 96, 96),
        nn.MaxPool2d(2),
        *_convolutions(96, 192, 192, 192),
        nn.MaxPool2d(2),
        *_convolutions(192, 192),
        *_convolutions(192, 192, classes, kernel=1, padding=0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(classes, classes),
    )


def _convolutions(*widths: int, kernel: int = 3, padding: int = 1) -> list[nn.Module]:
    """Return convolutions from each of ``widths`` to the next, with a ReLU after each."""
    return [layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, kernel, padding=padding), nn.ReLU())]
