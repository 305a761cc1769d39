"""Diverse MagNet at test time: each image meets an autoencoder of its own, drawn from the pack."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ismn_models.classifiers.nets import base_net
from ismn_models.magnet.design import REFORMER
from ismn_models.magnet.diverse.config import DiverseConfig
from ismn_models.magnet.nets import Autoencoder, autoencoder
from ismn_models.magnet.system import Later, Look, Screen, later
from ismn_models.pipeline import Classify, Pipeline, Read, Reading
from ismn_models.shape import Shape


class DiverseMagnet(Screen):
    """Rejecting defence that draws one autoencoder for each image of each decision, on torch's global CPU generator.

    One draw for each image rather than for each call: what becomes of an image does not hang on its batch. The
    detectors' thresholds and the reformer are those of the autoencoder drawn.
    """

    randomised = True

    def __init__(self, config: DiverseConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        structure = self.design.autoencoders[REFORMER]
        self.autoencoders = nn.ModuleList(autoencoder(structure, shape.channels) for _ in range(config.pack))
        self.exact = {"pack": config.pack + 1}
        self.register_buffer("thresholds", torch.full((config.pack, len(self.design.detectors)), torch.inf))

    def autoencoders_used(self) -> list[Autoencoder]:
        """Return the pack."""
        return [net for net in self.autoencoders if isinstance(net, Autoencoder)]

    def draw(self, x: Tensor) -> Tensor:
        """Return which autoencoder each image of x [N, C, H, W] meets, int64 [N]."""
        return torch.randint(len(self.autoencoders), (len(x),)).to(x.device)

    def rebuild(self, x: Tensor) -> Tensor:
        """See `Screen.rebuild`; each image through an autoencoder drawn at random."""
        return self.rebuild_through(x, self.draw(x))

    def rebuild_through(self, x: Tensor, pick: Tensor) -> Tensor:
        """Return AE_pick(x) for x [N, C, H, W] and ``pick`` int64 [N]."""
        rebuilt = torch.zeros_like(x, dtype=torch.float32)
        for number in sorted(set(pick.tolist())):
            chosen = pick == number
            rebuilt[chosen] = self.autoencoders[number](x[chosen])
        return rebuilt

    def look(self, x: Tensor, classify: Classify) -> tuple[Later, Tensor]:
        """See `Screen.look`; one draw for each image."""
        return self.look_through(x, self.draw(x), classify)

    def look_through(self, x: Tensor, pick: Tensor, classify: Classify) -> tuple[Later, Tensor]:
        """Return the answer's logits and the score [N] where image i meets autoencoder pick[i]."""
        chosen = functools.partial(self.rebuild_through, pick=pick)
        return self.examine(Look(x, classify, {REFORMER: chosen}), self.thresholds[pick])

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        """Return "pack", the expectation over the draw without drawing, and "one", a draw of a decision's kind."""
        routes = {"pack": self.read_pack, "one": self.read}
        return {name: functools.partial(read, classify=classify) for name, read in routes.items()}

    def read_pack(self, x: Tensor, classify: Classify) -> Reading:
        """Return the mean of the logits over the pack, and its largest margin: below 0 whatever is drawn passes.

        The classifier sees x once and each of the reconstructions. Against another pack than the defender's this
        is Carlini and Wagner's transfer attack (arXiv 1711.08478).
        """
        plain, seen = later(classify, x), []
        for net, thresholds in zip(self.autoencoders, self.thresholds, strict=True):
            logits, score = self.examine(Look(x, classify, {REFORMER: net}, plain), thresholds)
            seen.append((logits(), score))
        logits_of, scores = (torch.stack(each) for each in zip(*seen, strict=True))
        return Reading(logits_of.mean(0), scores.amax(0) - self.threshold if self.detectors else None)

    def marks(self, x: Tensor, classify: Classify) -> Tensor:
        """Return each detector's mark on each autoencoder, [N, pack, detectors]. Needs no thresholds."""
        plain = later(classify, x)
        looks = (Look(x, classify, {REFORMER: net}, plain) for net in self.autoencoders)
        return torch.stack([self.compare(look) for look in looks], 1)

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit the thresholds on each autoencoder to their drop rates on clean validation images [n, C, H, W]."""
        with torch.no_grad():
            marks = torch.cat([self.marks(x, classify) for x in batches])
        for row, own in zip(self.thresholds, marks.unbind(1), strict=True):
            self.fit_thresholds(row, own)


def build(config: DiverseConfig, shape: Shape, base: nn.Module | None = None) -> Pipeline:
    """Return the untrained system around ``base`` (a fresh Table 1 net where none is given)."""
    return Pipeline(base_net(shape, base), DiverseMagnet(config, shape))
