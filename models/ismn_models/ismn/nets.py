"""The mapping network: Table 2's encoder, two generators, and the discriminator.

Images are [N, C, n, n] in [0, 1] with n a multiple of 16. The third number of Table 2's layers is the stride;
padding is k // 2 ('valid' cannot be built at 32x32: the fourth convolution would see 2x2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Table 2. 2,148,352 weights at 32x32x3.

    The fourth convolution has no activation in the table; the code is rectified, as DDSA's sparsity rule presumes.
    """

    def __init__(self, size: int = 32, channels: int = 3, code: int = 128, keep: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3)
        self.conv2 = nn.Conv2d(64, 128, 3, 2, 1)
        self.conv3 = nn.Conv2d(128, 256, 3, 2, 1)
        self.conv4 = nn.Conv2d(256, 256, 5, 2, 2)
        self.code = nn.Linear(256 * (size // 16) ** 2, code)
        self.keep = keep

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the code [N, 128], at least 0, and the maps of the first three convolutions."""
        maps = []
        h = x
        for conv in (self.conv1, self.conv2, self.conv3):
            h = nn.functional.leaky_relu(conv(h), 0.2)
            maps.append(h)
        code = self.code(self.conv4(h).flatten(1)).relu()
        return (code if self.keep is None else _largest(code, self.keep)), maps


def _largest(code: Tensor, keep: int) -> Tensor:
    """Zero all but the ``keep`` largest units of each sample."""
    kept = torch.zeros_like(code).scatter(1, code.topk(keep, dim=1).indices, 1.0)
    return code * kept


class SkipGenerator(nn.Module):
    """R(x) = clip(x - m, 0, 1), the perturbation map m decoded from the code and the encoder's maps.

    1,885,347 weights at 32x32x3. The fourth convolution is not skipped, so the code stays in the path.
    """

    def __init__(self, size: int = 32, channels: int = 3, code: int = 128) -> None:
        super().__init__()
        self.side = size // 16
        self.expand = nn.Linear(code, 256 * self.side**2)
        self.up1 = nn.Conv2d(256 + 256, 256, 3, padding=1)
        self.up2 = nn.Conv2d(256 + 128, 128, 3, padding=1)
        self.up3 = nn.Conv2d(128 + 64, 64, 3, padding=1)
        self.up4 = nn.Conv2d(64 + channels, 32, 3, padding=1)
        self.out = nn.Conv2d(32, channels, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, code: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the regenerated images, same shape as x, in [0, 1]."""
        h = self.expand(code).view(-1, 256, self.side, self.side)
        skips = [maps[2], maps[1], maps[0], x]
        for conv, skip in zip((self.up1, self.up2, self.up3, self.up4), skips, strict=True):
            h = nn.functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            h = nn.functional.leaky_relu(conv(torch.cat([h, skip.to(h.dtype)], 1)), 0.2)
        raw: Tensor = x - self.out(h).float()
        clipped = raw.clamp(0, 1)
        # Straight-through in training: a pixel driven out of range has no other way back.
        return raw + (clipped - raw).detach() if self.training else clipped


class PlainGenerator(nn.Module):
    """Transposed convolutions mirroring Table 2, from the code alone. 2,148,995 weights at 32x32x3."""

    def __init__(self, size: int = 32, channels: int = 3, code: int = 128) -> None:
        super().__init__()
        self.side = size // 16
        self.expand = nn.Linear(code, 256 * self.side**2)
        self.up1 = nn.ConvTranspose2d(256, 256, 5, 2, 2, output_padding=1)
        self.up2 = nn.ConvTranspose2d(256, 128, 3, 2, 1, output_padding=1)
        self.up3 = nn.ConvTranspose2d(128, 64, 3, 2, 1, output_padding=1)
        self.up4 = nn.ConvTranspose2d(64, channels, 7, 2, 3, output_padding=1)

    def forward(self, x: Tensor, code: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the regenerated images, same shape as x, in [0, 1]; only the code is used."""
        h = self.expand(code).view(-1, 256, self.side, self.side)
        for conv in (self.up1, self.up2, self.up3):
            h = nn.functional.leaky_relu(conv(h), 0.2)
        return torch.sigmoid(self.up4(h).float())


class Discriminator(nn.Module):
    """Defense-GAN-shaped: the notation of Table 2 is that paper's. 1,029,505 weights, any image size."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 5, 2, 2)
        self.conv2 = nn.Conv2d(64, 128, 5, 2, 2)
        self.conv3 = nn.Conv2d(128, 256, 5, 2, 2)
        self.out = nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit per image [N]: high means clean."""
        h = x
        for conv in (self.conv1, self.conv2, self.conv3):
            h = nn.functional.leaky_relu(conv(h), 0.2)
        logits: Tensor = self.out(h.mean((2, 3))).squeeze(1)
        return logits
