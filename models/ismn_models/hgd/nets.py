"""The denoising U-net (DUNET). Images are [N, C, H, W] in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALES = ((1, 2), (2, 3), (4, 3), (4, 3), (4, 3))
"""Of the encoder, finest first: width in multiples of the finest, convolutions."""
SMALL = 64
"""Images with fewer pixels a side have three scales: five would end in maps of 2x2."""


def group(inputs: int, outputs: int, convolutions: int, stride: int = 1) -> nn.Sequential:
    """Return 3x3 convolutions, each with batch normalisation and ReLU; the first has the ``stride``."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        first = number == 0
        conv = nn.Conv2d(inputs if first else outputs, outputs, 3, stride if first else 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Denoiser(nn.Module):
    """Encoder and decoder joined at every scale; what comes out is added to the image (Liao et al. 2018, Figure 3).

    2,770,304 weights below 64 pixels a side and 11,033,984 from there on, with 64 maps and 3 channels.
    """

    def __init__(self, channels: int = 3, size: int = 32, maps: int = 64) -> None:
        super().__init__()
        scales = SCALES[:3] if size < SMALL else SCALES
        widths = [maps * multiple for multiple, _ in scales]
        inputs = [channels, *widths]
        self.encoder = nn.ModuleList(
            group(inputs[scale], width, scales[scale][1], stride=1 if scale == 0 else 2)
            for scale, width in enumerate(widths)
        )
        # Coarsest first; each takes what the next coarser one gave, and the encoder's maps of its own scale.
        self.decoder = nn.ModuleList(
            group(widths[scale + 1] + widths[scale], widths[scale], scales[scale][1])
            for scale in reversed(range(len(scales) - 1))
        )
        self.final = nn.Conv2d(maps, channels, 1, bias=False)
        # It starts as the identity. The paper's code starts from a random change, which a short training may not undo.
        nn.init.zeros_(self.final.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the denoised images, same shape as x, in [0, 1], in float32 also under autocast."""
        h, kept = 2 * x - 1, list[Tensor]()
        for encode in self.encoder:
            h = encode(h)
            kept.append(h)
        kept.pop()
        for decode in self.decoder:
            maps = kept.pop()
            # Corners aligned, as bilinear interpolation was in the paper's version of torch.
            h = nn.functional.interpolate(h, size=maps.shape[-2:], mode="bilinear", align_corners=True)
            h = decode(torch.cat([h, maps], 1))
        raw: Tensor = x + self.final(h).float()
        clipped = raw.clamp(0, 1)
        # Straight-through in training: a pixel driven out of range has no other way back.
        return raw + (clipped - raw).detach() if self.training else clipped
