"""DDSA at test time: every input passes the autoencoder, then an unmodified classifier."""

from __future__ import annotations

from torch import Tensor, nn

from ismn_models.classifiers.nets import base_net
from ismn_models.ddsa.config import DdsaConfig
from ismn_models.ddsa.nets import SparseAutoencoder
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape


class Ddsa(Defence):
    """Reforming defence without a detector."""

    policy = "reform"

    def __init__(self, size: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.autoencoder = SparseAutoencoder(size, channels)

    def reform(self, x: Tensor) -> Tensor:
        """Return the denoised images, same shape as x [N, C, n, n], in [0, 1]."""
        denoised: Tensor = self.autoencoder(x)
        return denoised


def build(config: DdsaConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    base = base_net(shape, base)
    return Pipeline(base, Ddsa(shape.size, shape.channels))
