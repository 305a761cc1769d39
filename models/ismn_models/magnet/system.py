"""MagNet at test time: an input has to pass every detector; what passes is reformed and classified."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.training import build as build_classifier
from ismn_models.magnet.config import MagnetConfig, Part
from ismn_models.magnet.detectors import divergence, reconstruction_error, threshold_at
from ismn_models.magnet.nets import Autoencoder, autoencoder
from ismn_models.pipeline import Classify, Decision, Defence, Pipeline, Read, Reading

DETECTORS: tuple[Part, ...] = ("error", "jsd-10", "jsd-40")
TINY = torch.finfo(torch.float32).tiny

Later = Callable[[], Tensor]
"""Logits [N, K] that cost a pass only if they are asked for, and only once."""


def later(classify: Classify, x: Tensor) -> Later:
    """Return the logits of ``x``, computed when they are first asked for."""
    return functools.cache(lambda: classify(x))


class Screen(Defence):
    """What plain and diverse MagNet share: up to three detectors on a reconstruction, which is the reformer too.

    `score` is the largest ratio of a mark to its detector's threshold, so a score of 1 flags: it is reached
    exactly when some mark is not below its threshold.
    """

    policy = "reject"
    thresholds: Tensor
    """[..., len(DETECTORS)], a row for each autoencoder; infinite until `calibrate`."""

    def __init__(self, config: MagnetConfig) -> None:
        super().__init__()
        self.config = config
        self.detectors = tuple(name for name in DETECTORS if config.uses(name))
        self.columns = [DETECTORS.index(name) for name in self.detectors]
        self.threshold.fill_(1.0)

    def autoencoders_used(self) -> list[Autoencoder]:
        """Return all autoencoders, to be trained."""
        raise NotImplementedError

    def rebuild(self, x: Tensor) -> Tensor:
        """Return AE(x), same shape as x [N, C, H, W], in [0, 1]."""
        raise NotImplementedError

    def look(self, x: Tensor, classify: Classify) -> tuple[Later, Tensor]:
        """Return the answer's logits and the score [N] for x [N, C, H, W] in [0, 1]."""
        raise NotImplementedError

    def reform(self, x: Tensor) -> Tensor:
        """Return AE(x), or x itself with the reformer switched off."""
        return self.rebuild(x) if self.config.uses("reformer") else x

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        """Return max over detectors of mark / threshold, [N]; 1 and more is rejected."""
        return self.look(x, classify)[1]

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        """Answer for x [N, C, H, W]; every net sees each image at most once."""
        logits, score = self.look(x, classify)
        flagged = score >= self.threshold
        passes = int(self.config.uses("reformer"))
        return Decision(logits(), flagged, flagged, score, torch.full_like(flagged, passes, dtype=torch.int64))

    def read(self, x: Tensor, classify: Classify) -> Reading:
        """Return what a white-box attacker sees, in the passes of one decision."""
        logits, score = self.look(x, classify)
        return Reading(logits(), score - self.threshold if self.detectors else None)

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        """Return the one route: all is differentiable."""
        return {"reformed": functools.partial(self.read, classify=classify)}

    def examine(
        self, x: Tensor, rebuilt: Tensor, plain: Later, reformed: Later, thresholds: Tensor
    ) -> tuple[Later, Tensor]:
        """Return the answer's logits and the score [N], given AE(x) and the logits of x and of AE(x)."""
        score = worst_ratio(self.compare(x, rebuilt, plain, reformed), thresholds[..., self.columns])
        return reformed if self.config.uses("reformer") else plain, score

    def compare(self, x: Tensor, rebuilt: Tensor, plain: Later, reformed: Later) -> Tensor:
        """Return each detector's mark, [N, detectors] in the order of `detectors`."""
        columns = [x.new_zeros(len(x), 0)]
        for name in self.detectors:
            if name == "error":
                mark = reconstruction_error(x, rebuilt)
            else:
                mark = divergence(plain(), reformed(), float(name.removeprefix("jsd-")))
            columns.append(mark[:, None])
        return torch.cat(columns, 1)

    def fit_thresholds(self, row: Tensor, marks: Tensor) -> None:
        """Write to ``row`` [len(DETECTORS)] the threshold of each detector at its drop rate, from [N, detectors]."""
        for name, column, values in zip(self.detectors, self.columns, marks.unbind(1), strict=True):
            rate = self.config.error_drop_rate if name == "error" else self.config.jsd_drop_rate
            row[column] = threshold_at(values, rate)


def worst_ratio(marks: Tensor, thresholds: Tensor) -> Tensor:
    """Return the largest ratio of ``marks`` [N, d] to ``thresholds`` [d] or [N, d], [N]; 0 without detectors."""
    if not marks.shape[1]:
        return marks.new_zeros(len(marks))
    # A threshold of zero (all validation marks zero) must not turn a mark of zero into 0/0.
    return (marks / thresholds.clamp_min(TINY)).amax(1)


class Magnet(Screen):
    """MagNet with one autoencoder."""

    def __init__(self, config: MagnetConfig, channels: int = 3) -> None:
        super().__init__(config)
        self.autoencoder = autoencoder(config.arch, channels)
        self.register_buffer("thresholds", torch.full((len(DETECTORS),), torch.inf))

    def autoencoders_used(self) -> list[Autoencoder]:
        """Return the one autoencoder."""
        return [self.autoencoder]

    def rebuild(self, x: Tensor) -> Tensor:
        """See `Screen.rebuild`."""
        rebuilt: Tensor = self.autoencoder(x)
        return rebuilt

    def look(self, x: Tensor, classify: Classify) -> tuple[Later, Tensor]:
        """See `Screen.look`."""
        rebuilt = self.rebuild(x)
        return self.examine(x, rebuilt, later(classify, x), later(classify, rebuilt), self.thresholds)

    def marks(self, x: Tensor, classify: Classify) -> Tensor:
        """Return each detector's mark, [N, detectors] in the order of `detectors`.

        Needs no thresholds. ``x`` [N, C, H, W] in [0, 1].
        """
        rebuilt = self.rebuild(x)
        return self.compare(x, rebuilt, later(classify, x), later(classify, rebuilt))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit every detector's threshold to its drop rate on clean validation images [n, C, H, W]."""
        with torch.no_grad():
            marks = torch.cat([self.marks(x, classify) for x in batches])
        self.fit_thresholds(self.thresholds, marks)


def build(config: MagnetConfig, num_classes: int, channels: int, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    if base is None:
        base = build_classifier(ClassifierConfig(), num_classes, channels).base
    return Pipeline(base, Magnet(config, channels))
