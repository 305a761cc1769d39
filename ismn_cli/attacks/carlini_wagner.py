"""The attack of Carlini and Wagner (2017, arXiv 1608.04644) in L2, each sample with its own search over c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import demand_gradient, gradient, look, merged, units_of
from ismn_cli.attacks.objectives import margin
from ismn_cli.core.specs import AttackSpec
from ismn_cli.engine.craft import Proposed

INSIDE = 1e-3
"""How near to -1 and 1 the tanh variable may start: at the bounds themselves it has no gradient."""
GROWTH = 10.0
"""By what c grows while nothing has succeeded."""
LEAST = 0.01
"""Share of the range of its logits that a sample's clean margin counts for at least."""
GAIN, PATIENCE = 0.01, 2
"""A sample is done after so many search steps in a row that shorten its perturbation by a smaller share."""
BETAS, TINY = (0.9, 0.999), 1e-12
"""Adam's. Near the bounds the tanh shrinks gradients a thousandfold; its usual 1e-8 would hold such pixels."""


@dataclass(frozen=True)
class Settings:
    """The attack's parameters, as in the catalogue."""

    steps: int
    search_steps: int
    lr: float
    """Adam's first step size in the tanh variable; it falls linearly to lr / steps."""
    confidence: float
    """The lead that a success needs, as a share of the range of the clean logits."""
    minimise: bool
    """Whether a sample broken within eps goes on towards the smallest perturbation, or leaves at once."""


class CarliniWagner:
    """Minimises |x' - x|^2 + c relu(true logit - best wrong logit), with c searched for each sample.

    Behind a detector the logits are those of the (N+1)-class problem (`evasion.merged`). The margin is measured
    in units of the clean one: then c = 2 d^2 is what carries a sample over the boundary of a linear classifier
    at distance d, whatever the scale of its logits. The search starts at twice that, for the distance that the
    clean gradient promises. x' = x + (tanh w - tanh w0) / 2 is exactly x at the start, w0 is short of infinity,
    and w moves by Adam, so pixels at 0 and 1 move.

    All state is per sample: no result depends on the rest of the batch. A larger perturbation than eps is no
    break: the clean image is proposed.
    """

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        settings: dict[str, Any] = dict(spec.params)
        self.spec, self.threat, self.settings = spec, spec.threat, Settings(**settings)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Proposed:
        """Attack ``model`` on x [N, C, H, W] in [0, 1] with labels y int64 [N].

        Raises RuntimeError if what it attacks gives no gradient.
        """
        if self.threat.eps == 0:
            return Proposed(x)
        search = _Search(model, x, y, self.threat.eps, self.settings)
        for _ in range(self.settings.search_steps):
            who = search.left()
            if not len(who):
                break
            search.step(who)
        within = (search.distance <= self.threat.eps)[:, None, None, None]
        stuck = int(search.stuck.sum())
        notes = (f"zero gradient on {stuck} samples (cw-search)",) if stuck else ()
        return Proposed(torch.where(within, search.images, x), notes)


class _Search:
    """What is known of each of N samples: the shortest perturbation that succeeded, and the bracket around c."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, settings: Settings) -> None:
        self.model, self.x, self.y, self.settings = model, x, y, settings
        self.target = 0.0 if settings.minimise else eps
        leaf = x.detach().requires_grad_()
        clean = look(model, leaf)
        self.units = units_of(clean)
        lead = margin(merged(clean, y, self.units), y)
        right = lead <= 0
        slope = torch.zeros_like(lead)
        if right.any():
            demand_gradient(clean)
            slope = gradient(lead, leaf).flatten(1).norm(dim=1)
        lead = lead.detach()
        self.stuck = right & (slope == 0)
        self.scale = torch.maximum(lead.abs(), LEAST * self.units.logits)
        self.c = 4 * (self.scale / slope).clamp_max(eps).square()
        self.low, self.high = torch.zeros_like(lead), torch.full_like(lead, torch.inf)
        self.images, self.distance = x.clone(), torch.where(right, torch.inf, 0.0).to(x)
        self.idle = torch.zeros_like(y)

    def left(self) -> Tensor:
        """Return the positions of the samples that are not done, int64 [n]."""
        return ((self.distance > self.target) & (self.idle < PATIENCE)).nonzero()[:, 0]

    def step(self, who: Tensor) -> None:
        """Minimise at the present c of the samples ``who`` [n], and choose the next."""
        before, c = self.distance[who], self.c[who]
        broken = self._minimise(who)
        gained = before.isinf() | (self.distance[who] < (1 - GAIN) * before)
        self.idle[who] = torch.where(gained, 0, self.idle[who] + 1)
        low = self.low[who] = torch.where(broken, self.low[who], c)
        high = self.high[who] = torch.where(broken, c, self.high[who])
        self.c[who] = torch.where(high.isinf(), GROWTH * c, (low + high) / 2)

    def _minimise(self, who: Tensor) -> Tensor:
        """Return which of ``who`` [n] have succeeded at this c, bool [n]."""
        steps, lr, alive = self.settings.steps, self.settings.lr, who
        broken = torch.zeros_like(self.stuck)
        walk = _Walk(self.x[who])
        for step in range(steps):
            w = walk.w.detach().requires_grad_()
            loss = self._loss(walk.image(w), walk.x, alive, broken)
            left = self.distance[alive] > self.target
            if not left.any():
                break
            walk.adam(gradient(loss, w), step, lr * (1 - step / steps))
            if not left.all():
                alive = alive[left]
                walk.narrow(left)
        return broken[who]

    def _loss(self, image: Tensor, x: Tensor, who: Tensor, broken: Tensor) -> Tensor:
        """Return what is minimised, [n]; keep what has succeeded, and mark it in ``broken`` [N]."""
        reading = look(self.model, image)
        units, y = self.units.at(who), self.y[who]
        needed = self.settings.confidence * units.logits
        lead = margin(merged(reading, y, units), y)
        squared = (image - x).square().flatten(1).sum(1)
        with torch.no_grad():
            success, distance = (lead > 0) & (lead >= needed), squared.sqrt()
            broken[who] |= success
            better = success & (distance < self.distance[who])
            self.images[who[better]], self.distance[who[better]] = image[better], distance[better]
        return squared + self.c[who] * (needed - lead).clamp_min(0) / self.scale[who]


class _Walk:
    """Adam in the tanh variable w [n, ...] of n images."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.start = x, (2 * x - 1).clamp(INSIDE - 1, 1 - INSIDE)
        self.w = self.start.atanh()
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)

    def image(self, w: Tensor) -> Tensor:
        """Return the images at w, in the box."""
        image = self.x + (w.tanh() - self.start) / 2
        # Within `INSIDE` of a bound it may stick out. The gradient passes all the same: no pixel is held there.
        return image + (image.clamp(0, 1) - image).detach()

    def adam(self, slope: Tensor, step: int, lr: float) -> None:
        """Move w against the gradient ``slope``."""
        self.mean.lerp_(slope, 1 - BETAS[0])
        self.square.lerp_(slope.square(), 1 - BETAS[1])
        mean, square = (m / (1 - b ** (step + 1)) for m, b in zip((self.mean, self.square), BETAS, strict=True))
        self.w = self.w - lr * mean / (square.sqrt() + TINY)

    def narrow(self, left: Tensor) -> None:
        """Keep the images marked in ``left`` bool [n]."""
        self.x, self.start, self.w = self.x[left], self.start[left], self.w[left]
        self.mean, self.square = self.mean[left], self.square[left]
