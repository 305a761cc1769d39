"""HGD at test time: every input passes the denoiser, then an unmodified classifier."""

from __future__ import annotations

from torch import Tensor, nn

from ismn_models.classifiers.nets import base_net
from ismn_models.hgd.config import HgdConfig
from ismn_models.hgd.nets import Denoiser
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape


class Hgd(Defence):
    """Reforming defence without a detector."""

    policy = "reform"

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def reform(self, x: Tensor) -> Tensor:
        """Return the denoised images, same shape as x [N, C, H, W], in [0, 1]."""
        denoised: Tensor = self.denoiser(x)
        return denoised


def build(config: HgdConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    base = base_net(shape, base)
    return Pipeline(base, Hgd(Denoiser(shape.channels, shape.size, config.maps)))
