"""The denoising autoencoder; its second hidden layer is kept sparse by `ismn_models.sparsity`."""

from __future__ import annotations

from torch import Tensor, nn


class SparseAutoencoder(nn.Module):
    """Three strided convolutions, three dense layers, three transposed convolutions.

    3,859,971 weights at 32x32x3. The size must be a multiple of 8. The 512 units of the second dense
    layer are the sparse code.
    """

    def __init__(self, size: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.side = size // 8
        flat = 128 * self.side**2
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, 2, 1),
            nn.ReLU(),
        )
        self.first = nn.Linear(flat, 1024)
        self.second = nn.Linear(1024, 512)
        self.third = nn.Linear(512, flat)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 3, 2, 1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 3, 2, 1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 3, 2, 1, output_padding=1),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Return the sparse code [N, 512], at least 0."""
        h = self.first(self.encoder(x).flatten(1)).relu()
        code: Tensor = self.second(h).relu()
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Return images [N, C, n, n] in [0, 1], in float32 also under autocast."""
        h = self.third(code).relu().unflatten(1, (128, self.side, self.side))
        images: Tensor = self.decoder(h).float().sigmoid()
        return images

    def forward(self, x: Tensor) -> Tensor:
        """Return the denoised images, same shape as x, in [0, 1]."""
        return self.decode(self.encode(x))
