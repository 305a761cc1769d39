"""A universal adversarial perturbation (Moosavi-Dezfooli et al. 2017): one for all images attacked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import Units, closeness, demand_gradient, gradient, look, unit, units_of
from ismn_cli.core.specs import AttackSpec, Norm
from ismn_cli.engine.craft import Proposed
from ismn_models.pipeline import Reading


@dataclass(frozen=True)
class Settings:
    """The attack's parameters, as in the catalogue."""

    steps: int
    alpha: float
    """The first step size; it falls linearly to alpha / steps."""
    softness: float
    """How near to success, in units (see `evasion.Units`), an image counts for about a quarter; 0 counts for half."""


class Universal:
    """x' = clip(x + delta), one delta for all images of a batch, which is the set that it is computed on.

    Projected ascent on a smooth count of the images fooled, the sum of sigmoid(closeness / softness), the detector's
    margin included (`evasion.closeness`): sign steps in L-inf, along the gradient in L2. Of all deltas passed, the one
    that fools most images is kept. It is the gradient form of Shafahi et al. 2018 (arXiv 1811.11304) with all images in
    every step, and the count for their capped cross-entropy: in 20 steps at 8/255 on two batches of 32 CIFAR-10 images
    the released classifier came to be wrong on 52 of 64, by cross-entropy on 32. The original goes from image to image
    with DeepFool.

    The smaller the batch, the less universal: alone, an image gets a perturbation of its own. With n images and s
    steps that is n (s + 1) forward and n s backward passes.
    """

    together = True

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        settings: dict[str, Any] = dict(spec.params)
        self.threat, self.settings = spec.threat, Settings(**settings)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Proposed:
        """Attack ``model`` on x [N, C, H, W] in [0, 1] with labels y int64 [N].

        Raises RuntimeError if what it attacks gives no gradient.
        """
        if self.threat.eps == 0:
            return Proposed(x)
        search, delta, moved = _Search(model, x, y), torch.zeros_like(x[:1]), False
        for step in range(self.settings.steps):
            slope = search.slope(delta, self.settings.softness)
            moved = moved or bool(slope.any())
            delta = self._into(delta + self._step(slope, step))
        with torch.no_grad():
            search.see(delta)
        notes = () if moved else (f"zero gradient on {len(x)} samples (uap)",)
        return Proposed((x + search.best).clamp(0, 1), notes)

    def _step(self, slope: Tensor, step: int) -> Tensor:
        size = self.settings.alpha * (1 - step / self.settings.steps)
        return size * (slope.sign() if self.threat.norm is Norm.LINF else unit(slope))

    def _into(self, delta: Tensor) -> Tensor:
        """Return what is nearest to ``delta`` [1, C, H, W] in the ball around 0."""
        eps = self.threat.eps
        return delta.clamp(-eps, eps) if self.threat.norm is Norm.LINF else delta.renorm(2, 0, eps)


class _Search:
    """The perturbation that fooled most images so far; of equals, the one that leaves the others nearer to it."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.units: Units | None = None
        self.best, self.standing = torch.zeros_like(x[:1]), (-1, 0.0)

    def see(self, delta: Tensor) -> tuple[Reading, Tensor]:
        """Look at all images moved by ``delta`` [1, C, H, W]: the reading, and how near to success each is, [N]."""
        reading = look(self.model, (self.x + delta).clamp(0, 1))
        # The first perturbation is none: units are those of the clean images.
        self.units = self.units or units_of(reading)
        near = closeness(reading, self.y, self.units).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        standing = (int((near > 0).sum()), float(near.detach().clamp_max(0).mean()))
        if standing > self.standing:
            self.best, self.standing = delta.detach(), standing
        return reading, near

    def slope(self, delta: Tensor, softness: float) -> Tensor:
        """Return the gradient of the smooth count at ``delta`` [1, C, H, W]."""
        leaf = delta.detach().requires_grad_()
        reading, near = self.see(leaf)
        demand_gradient(reading)
        return gradient((near / softness).sigmoid(), leaf)
