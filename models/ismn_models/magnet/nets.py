"""MagNet's autoencoders for CIFAR-10: the paper's and the author's later one. Pixels are in [0, 1]."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class Autoencoder(nn.Sequential):
    """A chain of blocks, one 3x3 'same' convolution each; the last ends in a sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction, same shape as x, in [0, 1], in float32 also under autocast."""
        return self.activities(x)[-1]

    def activities(self, x: Tensor) -> list[Tensor]:
        """Return the output of every block; the last is the reconstruction."""
        outputs = []
        for block in self:
            x = block(x)
            outputs.append(x)
        outputs[-1] = outputs[-1].float()
        return outputs


def autoencoder(arch: Literal["improved", "paper"], channels: int = 3) -> Autoencoder:
    """Return an untrained autoencoder.

    paper: structure [3], which the code mirrors and closes with a convolution back to the image: three
    sigmoid layers, 252 weights. improved: what the author answered to failed reproductions (issues 2 and 7 of
    Trevillie/MagNet), 11,139 weights.
    """
    if arch == "paper":
        return Autoencoder(
            nn.Sequential(_conv(channels, 3), nn.Sigmoid()),
            nn.Sequential(_conv(3, 3), nn.Sigmoid()),
            nn.Sequential(_conv(3, channels), nn.Sigmoid()),
        )
    return Autoencoder(
        nn.Sequential(_conv(channels, 32), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(_conv(32, 32), nn.ReLU(), nn.BatchNorm2d(32)),
        nn.Sequential(_conv(32, channels), nn.Sigmoid()),
    )


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    # Glorot's uniform draw, as in Keras: torch's own draw leaves the sigmoid chain near a constant for long.
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
