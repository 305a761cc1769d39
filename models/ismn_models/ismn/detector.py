"""The perturbation detector P with the level head Q, on the log-DCT of the input-output difference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.dct_detector import DctDetector


class Detector(DctDetector):
    """Linear P, which is PRN's detector, and Q beside it on the same features."""

    def __init__(self, size: int = 32, channels: int = 3) -> None:
        super().__init__(size, channels)
        self.level = nn.Linear(self.suspicion.in_features, 1)

    def estimate_level(self, x: Tensor, regenerated: Tensor) -> Tensor:
        """Return Q's estimate of eps [N], in [0, 0.5]. Diagnostic only: it chooses no threshold."""
        level: Tensor = self.level(self.features(x, regenerated)).squeeze(1)
        return level.clamp(0, 0.5)


def fit_ridge(features: Tensor, target: Tensor, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return weights [d] and bias [] of ridge regression, in closed form."""
    centre, offset = features.mean(0), target.mean()
    centred = (features - centre).double()
    gram = centred.T @ centred + penalty * torch.eye(features.shape[1], device=features.device).double()
    weights = torch.linalg.solve(gram, centred.T @ (target - offset).double()).to(features.dtype)
    return weights, offset - centre @ weights
