"""MagNet at test time: an input has to pass every detector; what passes is reformed and classified."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ismn_models.classifiers.nets import base_net
from ismn_models.magnet.config import MagnetConfig
from ismn_models.magnet.design import REFORMER, Detector, design
from ismn_models.magnet.detectors import divergence, reconstruction_error, threshold_at
from ismn_models.magnet.nets import Autoencoder, autoencoder
from ismn_models.pipeline import Classify, Decision, Defence, Pipeline, Read, Reading, Reform, Waypoint
from ismn_models.shape import Shape

Seen = TypeVar("Seen")
TINY = torch.finfo(torch.float32).tiny

Later = Callable[[], Tensor]
"""A tensor that costs a pass only if it is asked for, and only once."""


def later(through: Callable[[Seen], Tensor], x: Seen) -> Later:
    """Return ``through(x)``, computed when it is first asked for."""
    return functools.cache(lambda: through(x))


class Look:
    """What the defence may see of x [N, C, H, W]: reconstructions by name, the logits of x and of each of them."""

    def __init__(
        self, x: Tensor, classify: Classify, nets: Mapping[str, Reform], plain: Later | None = None
    ) -> None:
        """Prepare a look through ``nets``. ``plain``: the logits of x, where another look shares them."""
        self.x = x
        self.plain = plain or later(classify, x)
        self.rebuilt = {name: later(net, x) for name, net in nets.items()}
        self.reformed = {name: later(lambda seen: classify(seen()), seen) for name, seen in self.rebuilt.items()}

    def mark(self, detector: Detector) -> Tensor:
        """Return the mark of ``detector``, [N]."""
        if detector.kind == "error":
            return reconstruction_error(self.x, self.rebuilt[detector.autoencoder](), detector.parameter)
        return divergence(self.plain(), self.reformed[detector.autoencoder](), float(detector.parameter))


class Screen(Defence):
    """What plain and diverse MagNet share: detectors on reconstructions, of which one is the reformer's.

    `score` is the largest ratio of a mark to its detector's threshold, so a score of 1 flags: it is reached
    exactly when some mark is not below its threshold.
    """

    policy = "reject"
    thresholds: Tensor
    """[..., detectors of the design]; infinite until `calibrate`, and where one is switched off."""

    def __init__(self, config: MagnetConfig, shape: Shape) -> None:
        """Prepare for images of ``shape``. Raises ValueError where the settings do not fit them."""
        super().__init__()
        self.config = config
        self.design = design(config, shape)
        self.columns = [i for i, one in enumerate(self.design.detectors) if config.uses(one.name)]
        self.detectors = tuple(self.design.detectors[i] for i in self.columns)
        self.threshold.fill_(1.0)

    def autoencoders_used(self) -> list[Autoencoder]:
        """Return all autoencoders, to be trained."""
        raise NotImplementedError

    def rebuild(self, x: Tensor) -> Tensor:
        """Return the reformer's AE(x), same shape as x [N, C, H, W], in [0, 1]."""
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

    def trace(self, x: Tensor, classify: Classify) -> list[Waypoint]:
        """Return what the reformer makes of x; the detectors look at x alone."""
        reformed = self.reform(x)
        taken = torch.ones(len(x), dtype=torch.bool, device=x.device)
        return [] if reformed is x else [Waypoint("reformed", reformed, taken)]

    def read(self, x: Tensor, classify: Classify) -> Reading:
        """Return what a white-box attacker sees, in the passes of one decision."""
        logits, score = self.look(x, classify)
        return Reading(logits(), score - self.threshold if self.detectors else None)

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        """Return the one route: all is differentiable."""
        return {"reformed": functools.partial(self.read, classify=classify)}

    def examine(self, look: Look, thresholds: Tensor) -> tuple[Later, Tensor]:
        """Return the answer's logits and the score [N], given the thresholds [detectors] or [N, detectors]."""
        score = worst_ratio(self.compare(look), thresholds[..., self.columns])
        return look.reformed[REFORMER] if self.config.uses("reformer") else look.plain, score

    def compare(self, look: Look) -> Tensor:
        """Return each detector's mark, [N, detectors] in the order of `detectors`."""
        columns = [look.mark(detector)[:, None] for detector in self.detectors]
        return torch.cat([look.x.new_zeros(len(look.x), 0), *columns], 1)

    def fit_thresholds(self, row: Tensor, marks: Tensor) -> None:
        """Write to ``row`` the threshold of each detector at its drop rate, from marks [N, detectors]."""
        for detector, column, values in zip(self.detectors, self.columns, marks.unbind(1), strict=True):
            row[column] = threshold_at(values, detector.drop_rate)


def worst_ratio(marks: Tensor, thresholds: Tensor) -> Tensor:
    """Return the largest ratio of ``marks`` [N, d] to ``thresholds`` [d] or [N, d], [N]; 0 without detectors."""
    if not marks.shape[1]:
        return marks.new_zeros(len(marks))
    # A threshold of zero (all validation marks zero) must not turn a mark of zero into 0/0.
    return (marks / thresholds.clamp_min(TINY)).amax(1)


class Magnet(Screen):
    """MagNet: the autoencoders of its design are submodules by their names there."""

    autoencoder: Autoencoder
    """The reformer."""

    def __init__(self, config: MagnetConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        for name, structure in self.design.autoencoders.items():
            self.add_module(name, autoencoder(structure, shape.channels))
        self.register_buffer("thresholds", torch.full((len(self.design.detectors),), torch.inf))

    def autoencoders_used(self) -> list[Autoencoder]:
        """Return the autoencoders of the design."""
        return list(self.nets().values())

    def nets(self) -> dict[str, Autoencoder]:
        """Return the autoencoders by name."""
        return {name: self.get_submodule(name) for name in self.design.autoencoders}  # type: ignore[misc]

    def rebuild(self, x: Tensor) -> Tensor:
        """See `Screen.rebuild`."""
        rebuilt: Tensor = self.autoencoder(x)
        return rebuilt

    def look(self, x: Tensor, classify: Classify) -> tuple[Later, Tensor]:
        """See `Screen.look`."""
        return self.examine(Look(x, classify, self.nets()), self.thresholds)

    def marks(self, x: Tensor, classify: Classify) -> Tensor:
        """Return each detector's mark, [N, detectors] in the order of `detectors`.

        Needs no thresholds. ``x`` [N, C, H, W] in [0, 1].
        """
        return self.compare(Look(x, classify, self.nets()))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit every detector's threshold to its drop rate on clean validation images [n, C, H, W]."""
        with torch.no_grad():
            marks = torch.cat([self.marks(x, classify) for x in batches])
        self.fit_thresholds(self.thresholds, marks)


def build(config: MagnetConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given).

    Raises ValueError where the settings do not fit the images.
    """
    return Pipeline(base_net(shape, base), Magnet(config, shape))
