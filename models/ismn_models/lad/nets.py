"""LAD's generator and its attention SVM."""

from __future__ import annotations

import math

from torch import Tensor, nn

SIDE = 4
GROUPS = ((1, 3), (1, 3), (2, 3), (4, 2), (8, 2))
"""Of each doubling of the face generator, 4 to 128 pixels: what the first width is divided by, and convolutions."""


class Generator(nn.Module):
    """z [N, d] to images [N, C, n, n] in [0, 1]: the public code's face generator, with the doublings n needs.

    A dense layer without bias to 512 x 4 x 4; for each doubling a transposed convolution 2x2 of stride 2 with batch
    normalisation, then convolutions 3x3 with batch normalisation and ReLU; a convolution 1x1 to C, and tanh, brought
    from [-1, 1] to [0, 1]. Fewer than five doublings are the last of the face generator's; more have halved widths.
    An n that is no 4 * 2^k is reached by bilinear interpolation.
    """

    def __init__(self, dim: int, size: int, channels: int = 3, width: int = 512) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.dense = nn.Linear(dim, width * SIDE**2, bias=False)
        layers: list[nn.Module] = []
        inputs = width
        for divisor, convolutions in groups(size):
            layers += [nn.ConvTranspose2d(inputs, inputs, 2, 2), nn.BatchNorm2d(inputs)]
            outputs = max(1, width // divisor)
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, channels, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Return images [N, C, n, n] in [0, 1], in float32 also under autocast."""
        h: Tensor = self.layers(self.dense(z).unflatten(1, (self.width, SIDE, SIDE))).float()
        if h.shape[-1] != self.size:
            h = nn.functional.interpolate(h, size=(self.size, self.size), mode="bilinear")
        return (h.tanh() + 1) / 2


def groups(size: int) -> tuple[tuple[int, int], ...]:
    """Return (divisor of the width, convolutions) for each doubling on the way to ``size`` pixels a side."""
    doublings = (math.ceil(size / SIDE) - 1).bit_length()
    more = tuple((2 ** (k - 1), 2) for k in range(len(GROUPS), doublings))
    return GROUPS[max(0, len(GROUPS) - doublings) :] + more


class AttentionSvm(nn.Module):
    """score(z) = w . (a(z) o z) + b, with attention a(z) = exp(softmax(tanh(W z + c))) in (1, e]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.normal = nn.Linear(dim, 1)

    def attention(self, z: Tensor) -> Tensor:
        """Return a(z) [N, d] for z [N, d]."""
        return attend(self.query(z))

    def forward(self, z: Tensor) -> Tensor:
        """Return the scores [N], positive for the second class."""
        return self.score(self.query(z), z)

    def score(self, query: Tensor, z: Tensor) -> Tensor:
        """Return the scores [N] of z [N, d], given W z + c."""
        scores: Tensor = self.normal(attend(query) * z)
        return scores.squeeze(1)

    def direction(self, z: Tensor) -> Tensor:
        """Return a(z) o w [N, d], which leads towards the second class. w is not scaled to length 1."""
        return self.attention(z) * self.normal.weight


def attend(query: Tensor) -> Tensor:
    """Return exp(softmax(tanh(query))), [N, d]."""
    return query.tanh().softmax(1).exp()
