"""MagNet at test time: an input has to pass every detector; what passes is reformed and classified."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.training import build as build_classifier
from ismn_models.magnet.config import MagnetConfig
from ismn_models.magnet.detectors import divergence, reconstruction_error, threshold_at
from ismn_models.magnet.nets import autoencoder
from ismn_models.pipeline import Classify, Decision, Defence, Pipeline

DETECTORS = ("error", "jsd-10", "jsd-40")
TINY = torch.finfo(torch.float32).tiny


class Magnet(Defence):
    """Rejecting defence with up to three detectors on one autoencoder, which is the reformer too.

    `score` is the largest ratio of a mark to its detector's threshold, so a score of 1 flags: it is reached
    exactly when some mark is not below its threshold.
    """

    policy = "reject"
    thresholds: Tensor

    def __init__(self, config: MagnetConfig, channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = autoencoder(config.arch, channels)
        self.detectors = tuple(name for name in DETECTORS if name not in config.off)
        self.threshold.fill_(1.0)
        self.register_buffer("thresholds", torch.full((len(DETECTORS),), torch.inf))

    def reform(self, x: Tensor) -> Tensor:
        """Return AE(x), or x itself with the reformer switched off."""
        return self.autoencoder(x) if self.config.uses("reformer") else x

    def marks(self, x: Tensor, classify: Classify) -> Tensor:
        """Return each detector's mark, [N, detectors] in the order of `detectors`.

        Needs no thresholds. ``x`` [N, C, H, W] in [0, 1].
        """
        rebuilt = self.autoencoder(x)
        return self._marks(x, rebuilt, classify(x), classify(rebuilt))

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        """Return max over detectors of mark / threshold, [N]; 1 and more is rejected."""
        return self._score(self.marks(x, classify))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit every detector's threshold to its drop rate on clean validation images [n, C, H, W]."""
        with torch.no_grad():
            marks = torch.cat([self.marks(x, classify) for x in batches])
        for column, name in enumerate(self.detectors):
            rate = self.config.error_drop_rate if name == "error" else self.config.jsd_drop_rate
            self.thresholds[DETECTORS.index(name)] = threshold_at(marks[:, column], rate)

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        """Answer for x [N, C, H, W]; every net sees each image once."""
        rebuilt = self.autoencoder(x)
        plain, reformed = classify(x), classify(rebuilt)
        score = self._score(self._marks(x, rebuilt, plain, reformed))
        flagged = score >= self.threshold
        passes = int(self.config.uses("reformer"))
        logits = reformed if passes else plain
        return Decision(logits, flagged, flagged, score, torch.full_like(flagged, passes, dtype=torch.int64))

    def _marks(self, x: Tensor, rebuilt: Tensor, plain: Tensor, reformed: Tensor) -> Tensor:
        columns = [x.new_zeros(len(x), 0)]
        for name in self.detectors:
            if name == "error":
                mark = reconstruction_error(x, rebuilt)
            else:
                mark = divergence(plain, reformed, float(name.removeprefix("jsd-")))
            columns.append(mark[:, None])
        return torch.cat(columns, 1)

    def _score(self, marks: Tensor) -> Tensor:
        if not self.detectors:
            return marks.new_zeros(len(marks))
        # A threshold of zero (all validation marks zero) must not turn a mark of zero into 0/0.
        used = self.thresholds[[DETECTORS.index(name) for name in self.detectors]]
        return (marks / used.clamp_min(TINY)).amax(1)


def build(config: MagnetConfig, num_classes: int, channels: int, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    if base is None:
        base = build_classifier(ClassifierConfig(), num_classes, channels).base
    return Pipeline(base, Magnet(config, channels))
