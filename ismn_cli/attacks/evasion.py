"""How to step through a surrogate that a detector guards: classifier and detector have to be fooled at once.

A sample has succeeded where its class margin is above 0 and the detector's margin, if there is one, below 0.
Scores of detectors come in any unit. Here both margins are measured in units of the sample's clean image, so
that no result depends on how a detector was scaled: see `Units`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ismn_cli.attacks import objectives
from ismn_cli.engine.counting import Counted
from ismn_models.pipeline import Pipeline, Reading, Surrogate

SMALL = 0.01
"""The lead, in units, that a step wants before it turns to the other goal: at a tie it would flutter."""
PARALLEL = 1e-5
"""Sine of the angle between two gradients under which what is left of one beside the other is rounding."""

_NO_GRADIENT = "what is attacked gives no gradient: its output does not require grad"


class Units(NamedTuple):
    """The size of a sample's numbers, each [N] and above 0: the range of its logits, and its detector margin."""

    logits: Tensor
    margin: Tensor | None

    def at(self, who: Tensor) -> Units:
        """Return those of the samples ``who`` int64 [n]."""
        return Units(self.logits[who], None if self.margin is None else self.margin[who])


def joined(parts: Sequence[Units]) -> Units:
    """Return the units of all parts' samples, one behind the other."""
    margins = [part.margin for part in parts if part.margin is not None]
    return Units(torch.cat([part.logits for part in parts]), torch.cat(margins) if margins else None)


def look(model: nn.Module, x: Tensor) -> Reading:
    """Return logits and, where a detector guards the way, its margin, for x [N, C, H, W]."""
    return model.look(x) if isinstance(model, Counted | Surrogate) else Reading(model(x))


def draws_at_random(model: nn.Module) -> bool:
    """Return whether a second look at the same images may answer otherwise, as far as the model tells."""
    seen = model.model if isinstance(model, Counted) else model
    return seen.drawn if isinstance(seen, Surrogate) else isinstance(seen, Pipeline) and seen.defence.randomised


def demand_gradient(reading: Reading) -> None:
    """Raise RuntimeError where autograd sees no way from the logits to the pixels."""
    if not reading.logits.requires_grad:
        raise RuntimeError(_NO_GRADIENT)


def gradient(values: Tensor, point: Tensor, retain: bool = False) -> Tensor:
    """Return the gradient of the sum of ``values`` [n], like ``point``; zero where it is not finite.

    Raises RuntimeError where there is no way from one to the other.
    """
    (found,) = torch.autograd.grad(values.sum(), point, retain_graph=retain, allow_unused=True)
    if found is None:
        raise RuntimeError(_NO_GRADIENT)
    return torch.nan_to_num(found, 0.0, 0.0, 0.0)


def units_of(clean: Reading) -> Units:
    """Return the units that the reading of the clean images sets."""
    if clean.margin is None:
        return Units(objectives.extent(clean.logits), None)
    size = clean.margin.detach().abs()
    # Infinite where the detector has no threshold yet.
    size = torch.where(size.isfinite() & (size > 0), size, 1.0)
    return Units(objectives.extent(clean.logits), size)


def succeeded(reading: Reading, y: Tensor) -> Tensor:
    """Return bool [N]: a wrong class wins, and the detector is silent."""
    wrong = objectives.margin(reading.logits, y) > 0
    return wrong if reading.margin is None else wrong & (reading.margin < 0)


def closeness(reading: Reading, y: Tensor, units: Units) -> Tensor:
    """Return how near each sample is to success, [N], in units; above 0 it has succeeded.

    The smaller of the class margin and of how far the detector's score is below its threshold.
    """
    wrong = objectives.margin(reading.logits, y) / units.logits
    if reading.margin is None or units.margin is None:
        return wrong
    return torch.minimum(wrong, -reading.margin / units.margin)


def merged(reading: Reading, y: Tensor, units: Units) -> Tensor:
    """Return logits [N, K] in which the true class stands for the detector too: any loss works on them.

    Carlini and Wagner (2017, arXiv 1705.07263) add the detector as class N+1. Their logit, (1 + D) max Z, wins
    for D >= 0 only if max Z is above 0; here it is max Z + D times the range of the logits, which needs no
    such luck. A sample has to leave both the true class and class N+1: the larger of the two takes the true
    one's place, so its margin is above 0 exactly where the sample has succeeded.
    """
    if reading.margin is None or units.margin is None:
        return reading.logits
    detector = reading.logits.amax(1) + units.logits * (reading.margin / units.margin)
    true = y[:, None]
    return reading.logits.scatter(1, true, torch.maximum(reading.logits.gather(1, true), detector[:, None]))


@dataclass(frozen=True)
class Standing:
    """Where n samples stand: ``point`` [n, ...] is the leaf that ``reading`` was made from, with a graph."""

    point: Tensor
    reading: Reading
    y: Tensor
    loss: Callable[[Tensor], Tensor]
    """Logits [n, K] -> [n], higher is closer to a wrong answer."""
    units: Units

    @cached_property
    def fooled(self) -> Tensor:
        """Whether a wrong class leads by a little more than nothing, bool [n]."""
        return objectives.margin(self.reading.logits.detach(), self.y) > SMALL * self.units.logits

    def of_loss(self, retain: bool = False) -> Tensor:
        """Return the gradient of the classification loss."""
        return gradient(self.loss(self.reading.logits), self.point, retain)

    def of_margin(self) -> Tensor:
        """Return the gradient of the detector's margin; zero where it has none to give."""
        return gradient(self.margin, self.point) if self.margin.requires_grad else torch.zeros_like(self.point)

    @property
    def margin(self) -> Tensor:
        """The detector's margin, [n]."""
        assert self.reading.margin is not None
        return self.reading.margin


def direction(evasion: str, standing: Standing) -> Tensor:
    """Return where to step from here, like ``standing.point``: only its direction means anything.

    Without a detector in the way that is the gradient of the loss. Raises RuntimeError where the logits have no
    gradient; parts of the gradient that are not finite count as zero.
    """
    demand_gradient(standing.reading)
    if standing.reading.margin is None:
        return standing.of_loss()
    return EVASIONS[evasion](standing)


def _ignore(standing: Standing) -> Tensor:
    """As if there were no detector: what is left to an attacker who does not know the threshold."""
    return standing.of_loss()


def _selective(standing: Standing) -> Tensor:
    """Up the loss while not misclassified, down the detector's score once misclassified (S-PGD)."""
    loss = standing.loss(standing.reading.logits)
    return gradient(torch.where(standing.fooled, -standing.margin, loss), standing.point)


def _orthogonal(standing: Standing) -> Tensor:
    """As selective, without the part that works against the other goal (O-PGD; Bryniarski et al. 2021).

    grad f - (grad f . grad g) / (grad g . grad g) grad g, and the other way round; their Eq. 6 prints the
    projection on the wrong one.
    """
    up, down = unit(standing.of_loss(retain=True)), -unit(standing.of_margin())
    fooled = _each(standing.fooled, up)
    return without(torch.where(fooled, down, up), torch.where(fooled, up, down))


def _logit(standing: Standing) -> Tensor:
    """Up the loss of a classifier with the detector as one more class to stay away from."""
    logits = merged(standing.reading, standing.y, standing.units)
    return gradient(standing.loss(logits), standing.point)


def _penalty(standing: Standing) -> Tensor:
    """Up the loss - lambda relu(margin + a little).

    A loss and a score have no common unit, so lambda is taken anew at each step such that both weigh the same.
    """
    assert standing.units.margin is not None
    up, down = unit(standing.of_loss(retain=True)), -unit(standing.of_margin())
    near = standing.margin > -SMALL * standing.units.margin
    return up + down * _each(near, down)


EVASIONS: dict[str, Callable[[Standing], Tensor]] = {
    "ignore": _ignore,
    "selective": _selective,
    "logit": _logit,
    "penalty": _penalty,
    "orthogonal": _orthogonal,
}
"""By name, the cheapest first: the last two take two gradients a step."""


def unit(vectors: Tensor) -> Tensor:
    """Return ``vectors`` [n, ...] at length 1; zero stays zero. Lengths that underflow when squared are no trouble."""
    flat = vectors.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    return nn.functional.normalize(flat, dim=1).view_as(vectors)


def without(vectors: Tensor, others: Tensor) -> Tensor:
    """Return unit ``vectors`` [n, ...] without their components along unit ``others``; zero where parallel."""
    rest, along = vectors.flatten(1), others.flatten(1)
    for _ in range(2):  # the second time for what rounding left the first
        rest = rest - (rest * along).sum(1, keepdim=True) * along
    return torch.where(rest.norm(dim=1, keepdim=True) > PARALLEL, rest, 0.0).view_as(vectors)


def _each(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.ndim - 1))
