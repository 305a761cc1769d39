"""DDSA at test time: every input passes the autoencoder, then an unmodified classifier."""

from __future__ import annotations

from torch import Tensor, nn

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.training import build as build_classifier
from ismn_models.ddsa.config import DdsaConfig
from ismn_models.ddsa.nets import SparseAutoencoder
from ismn_models.pipeline import Defence, Pipeline


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


def build(
    config: DdsaConfig, num_classes: int, channels: int, base: nn.Module | None = None, size: int = 32
) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    if base is None:
        base = build_classifier(ClassifierConfig(), num_classes, channels).base
    return Pipeline(base, Ddsa(size, channels))
