"""A Gaussian prior of natural images: independent cosine coefficients whose variance falls with frequency."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.transforms import dct_matrix

MEAN = 0.47
AMPLITUDES = (200.0, 9.0, 1.8)
SLOPES = (3.6, 4.2, 3.85)
"""Variance A (1 + (f / 2)^2)^(-p/2) for the three colour axes at 32x32, f in half periods an image.

Slopes as in the first 4,000 CIFAR-10 training images, amplitudes two to four times theirs: a textured image
loses more by a prior that is too narrow than a smooth one by a wide one.
"""
AXES = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Grey, red-blue and green-magenta: nearly independent in natural images."""
FLOOR = 1e-4
"""Added to each variance in the energy: the finest coefficients of a decoded image are mostly its error."""


class ImagePrior(nn.Module):
    """Wiener filter and energy of images [N, C, H, W] in [0, 1] with 1 or 3 channels, of any size.

    Cosine rather than Fourier coefficients: an image's opposite borders do not meet. Nothing here is trained,
    so nothing is stored with the weights.
    """

    axes: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"the image prior knows 1 or 3 channels, not {channels}")
        axes = torch.tensor(AXES if channels == 3 else ((1.0,),))
        self.register_buffer("axes", axes / axes.norm(dim=1, keepdim=True), persistent=False)

    def denoise(self, x: Tensor, variance: Tensor) -> Tensor:
        """Return E[image | x] for white noise of ``variance`` [N, 1, 1, 1]; not clipped to [0, 1]."""
        rows, columns = dct_matrix(x.shape[-2]).to(x), dct_matrix(x.shape[-1]).to(x)
        expected = self.variances(x)
        kept = self._coefficients(x, rows, columns) * (expected / (expected + variance))
        return torch.einsum("oc,nohw->nchw", self.axes, rows.T @ kept @ columns) + MEAN

    def energy(self, x: Tensor) -> Tensor:
        """Return the mean squared coefficient in units of its expectation, [N]; natural images have 1 or less."""
        rows, columns = dct_matrix(x.shape[-2]).to(x), dct_matrix(x.shape[-1]).to(x)
        return (self._coefficients(x, rows, columns).square() / (self.variances(x) + FLOOR)).mean((1, 2, 3))

    def variances(self, x: Tensor) -> Tensor:
        """Return the prior variance of each coefficient, [C, H, W], for images of the shape of x."""
        height, width = x.shape[-2:]
        vertical, horizontal = torch.arange(height).to(x)[:, None], torch.arange(width).to(x)
        spread = 1 + (vertical.square() + horizontal.square()) / 4
        # Orthonormal coefficients grow with the pixels, and the grey axis sums three nearly equal channels.
        scale = height * width / 1024 / (1 if len(self.axes) == 3 else 3)
        pairs = zip(AMPLITUDES[: len(self.axes)], SLOPES, strict=False)
        return torch.stack([scale * a * spread ** (-p / 2) for a, p in pairs])

    def _coefficients(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return rows @ torch.einsum("oc,nchw->nohw", self.axes, x - MEAN) @ columns.T

