"""Linear transforms of images that several systems use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_matrix(n: int) -> Tensor:
    """Return the orthonormal DCT-II matrix D [n, n]: D @ D.T is the identity, D @ a @ D.T the 2-D transform."""
    i = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * i + 1) * i[:, None] / (2 * n)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.float()
