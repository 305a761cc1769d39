"""The path of an attack: every point that it shows a model, matched to the image that it started from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import draws_at_random, look, succeeded
from ismn_cli.attacks.objectives import ce, extent, margin
from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.ball import TOLERANCE, allowed
from ismn_cli.engine.counting import cost_of
from ismn_models.pipeline import Reading, Surrogate

SLACK = 1e-4
"""Share of the range of its logits by which a point on the path has to be wrong: the same image among others in the
batch gives logits that differ in the last digits."""
NOBODY = -1


@dataclass(frozen=True)
class Steps:
    """Points in the order in which they were shown, each [m]."""

    who: Tensor
    """int64: the position of the image that the point belongs to."""
    ce: Tensor
    margin: Tensor
    fooled: Tensor
    """bool: a wrong class wins by more than rounding, and the detector, if it was looked at, is silent."""

    def of(self, sample: int) -> Steps:
        """Return the points of one image."""
        mine = self.who == sample
        return Steps(self.who[mine], self.ce[mine], self.margin[mine], self.fooled[mine])


class Watched(Surrogate):
    """A model that remembers what it is shown around N images x [N, C, H, W] with labels y int64 [N].

    Only points within the threat model count as points of a path: others are not the attack's to return. An attack
    may drop images on the way, so a point belongs to the only image whose L-inf ball of eps it lies in. Where it
    lies in several, which takes images less than 2 eps apart, only a batch as long and in the order of the first is
    matched, and `ambiguous` counts the rest. Several copies of each image at once are no path.

    The model is seen through as it is: its logits, the detector's margin, and what a look costs.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        super().__init__(model, lambda points: look(model, points), cost_of(model), draws_at_random(model))
        self.x, self.y, self.threat = x, y, threat
        self.ambiguous = 0
        self.shown = 0
        """Points that were shown, whether they were matched or not."""
        self.guarded = False
        """Whether the attack looked at the detector in the way."""
        self._steps: list[Steps] = []

    def look(self, x: Tensor) -> Reading:
        """Return logits and margin for x [n, C, H, W] in [0, 1], and remember them."""
        reading = super().look(x)
        self.guarded |= reading.margin is not None
        self._remember(x, reading)
        return reading

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, K], and remember them; a detector is not asked."""
        logits: Tensor = self.system(x)
        self._remember(x, Reading(logits))
        return logits

    @cached_property
    def steps(self) -> Steps:
        """What was remembered; ask when the attack is done."""
        if not self._steps:
            nothing = torch.empty(0)
            return Steps(nothing.long(), nothing, nothing, nothing.bool())
        names = ("who", "ce", "margin", "fooled")
        return Steps(*(torch.cat([getattr(steps, name) for steps in self._steps]) for name in names))

    @torch.no_grad()
    def _remember(self, x: Tensor, reading: Reading) -> None:
        self.shown += len(x)
        if x.shape[1:] != self.x.shape[1:] or not 0 < len(x) <= len(self.x):
            return
        x, logits = x.detach(), reading.logits.detach().float()
        who = self._owners(x)
        mine = (who != NOBODY).nonzero()[:, 0]
        mine = mine[allowed(x[mine], self.x[who[mine]], self.threat)]
        who, logits = who[mine], logits[mine]
        y = self.y[who]
        detector = None if reading.margin is None else reading.margin.detach()[mine]
        lead = margin(logits, y)
        fooled = succeeded(Reading(logits, detector), y) & (lead > SLACK * extent(logits))
        self._steps.append(Steps(who.cpu(), ce(logits, y).cpu(), lead.cpu(), fooled.cpu()))

    def _owners(self, x: Tensor) -> Tensor:
        """Return the position of the image that each of x [n, ...] belongs to, int64 [n]; NOBODY where unknown."""
        reach = self.threat.eps + TOLERANCE
        if len(x) == len(self.x) and bool(((x - self.x).flatten(1).abs().amax(1) <= reach).all()):
            return torch.arange(len(x), device=x.device)
        near = torch.cdist(x.float().flatten(1), self.x.flatten(1), p=torch.inf) <= reach
        balls = near.sum(1)
        self.ambiguous += int((balls > 1).sum())
        return torch.where(balls == 1, near.long().argmax(1), NOBODY)
