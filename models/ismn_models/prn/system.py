"""PRN at test time: rectify, look at what was changed, and classify the rectified image if that looks attacked."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ismn_models.classifiers.nets import base_net
from ismn_models.dct_detector import DctDetector, upper_quantile
from ismn_models.pipeline import Classify, Decision, Defence, Pipeline, Waypoint
from ismn_models.prn.config import PrnConfig
from ismn_models.prn.nets import Rectifier
from ismn_models.shape import Shape


class Prn(Defence):
    """Routing defence: "if a perturbation is detected, the output of the PRN is used ... instead of the actual image".

    Nothing is rejected (Akhtar, Liu and Mian 2018, abstract).
    """

    policy = "route"

    def __init__(self, config: PrnConfig, size: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.rectifier = Rectifier(channels, config.maps, config.output == "residual")
        self.detector = DctDetector(size, channels)
        self.config = config

    def reform(self, x: Tensor) -> Tensor:
        """Return the rectified images, same shape as x [N, C, n, n], in [0, 1]."""
        rectified: Tensor = self.rectifier(x)
        return rectified

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        """Return the detector's score [N]."""
        score: Tensor = self.detector(x, self.reform(x))
        return score

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        """Answer for x [N, C, n, n]: `Defence`'s rule for routing, with one pass of the rectifier, not two."""
        rectified = self.reform(x)
        score = self.detector(x, rectified)
        flagged = score >= self.threshold
        logits = classify(torch.where(flagged[:, None, None, None], rectified, x))
        return Decision(logits, flagged, torch.zeros_like(flagged), score, flagged.long())

    def trace(self, x: Tensor, classify: Classify) -> list[Waypoint]:
        """Return the rectified images, taken by what the detector flags."""
        rectified = self.reform(x)
        return [Waypoint("rectified", rectified, self.detector(x, rectified) >= self.threshold)]

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit the threshold to the false-positive rate on clean images."""
        with torch.no_grad():
            scores = torch.cat([self.score(x, classify) for x in batches])
        self.threshold.copy_(upper_quantile(scores, 1 - self.config.false_positive_rate))


def build(config: PrnConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    return Pipeline(base_net(shape, base), Prn(config, shape.size, shape.channels))
