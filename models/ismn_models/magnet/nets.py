"""MagNet's autoencoders: the paper's chains and the author's later net for CIFAR-10. Pixels are in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ismn_models.magnet.design import Layer, Structure

RESIZE: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "up": lambda: nn.Upsample(scale_factor=2),
}


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


def autoencoder(structure: Structure, channels: int = 3) -> Autoencoder:
    """Return an untrained autoencoder for images of ``channels``.

    A structure lists the encoder's layers; the decoder mirrors them, with 2x nearest up-sampling for each pooling,
    and a convolution back to the image closes the chain; a sigmoid after every convolution. On one channel
    (3, "average", 3) has 310 weights and (3,) 142; on three channels (3,) has 252. improved: what the author answered
    to failed reproductions (issues 2 and 7 of Trevillie/MagNet), 11,139 weights.
    """
    if structure != "improved":
        return _chain(structure, channels)
    return Autoencoder(
        nn.Sequential(_conv(channels, 32), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(_conv(32, 32), nn.ReLU(), nn.BatchNorm2d(32)),
        nn.Sequential(_conv(32, channels), nn.Sigmoid()),
    )


def _chain(structure: tuple[Layer, ...], channels: int) -> Autoencoder:
    """Return a block for each convolution, which begins with the resizing before it."""
    decoder = ("up" if isinstance(layer, str) else layer for layer in reversed(structure))
    blocks: list[nn.Module] = []
    resizing: list[nn.Module] = []
    width = channels
    for layer in (*structure, *decoder, channels):
        if isinstance(layer, str):
            resizing.append(RESIZE[layer]())
        else:
            blocks.append(nn.Sequential(*resizing, _conv(width, layer), nn.Sigmoid()))
            resizing, width = [], layer
    return Autoencoder(*blocks)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    # Glorot's uniform draw, as in Keras: torch's own draw leaves the sigmoid chain near a constant for long.
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
