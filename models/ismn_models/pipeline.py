"""A classifier and its defence as one module: how a defended system decides, and where an attacker may go through.

Pixels are in [0, 1] throughout; classifiers return logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

Classify = Callable[[Tensor], Tensor]
Reform = Callable[[Tensor], Tensor]


class Reading(NamedTuple):
    """What one route through a defended system shows an attacker for N inputs, to be differentiated."""

    logits: Tensor
    """[N, K]"""
    margin: Tensor | None = None
    """[N]: how far the detector's score stands above its threshold. An input succeeds on this route only below
    0: above, it is refused, or takes another route. None where no detector stands in the way."""


Read = Callable[[Tensor], Reading]


class Decision(NamedTuple):
    """What a system answers for N inputs."""

    logits: Tensor
    """[N, K]: logits of the answer. Defined also where the input is rejected."""
    flagged: Tensor
    """bool [N]: the detector called the input suspicious. All false without a detector."""
    rejected: Tensor
    """bool [N]: no answer is given. A routing system flags but never rejects."""
    score: Tensor
    """[N]: the detector's score, higher is more suspicious; zero without a detector."""
    loops: Tensor
    """int64 [N]: how often the input was regenerated; 0 is the clean route."""


class Waypoint(NamedTuple):
    """A picture that a system makes of each of N inputs on the way to its answer."""

    name: str
    """"reformed", "regenerated 2"."""
    images: Tensor
    """[N, C, H, W] in [0, 1]."""
    taken: Tensor
    """bool [N]: whose way leads through here."""
    score: Tensor | None = None
    """[N]: what the detector says of this picture, where it looks at it."""


class Defence(nn.Module):
    """Base of all defences: by itself it does nothing. Override `reform`, and `score` or `decide`.

    Whoever overrides `decide` overrides `trace` to match.

    ``policy`` says what a flag means: "pass" (no detector), "reject" (MagNet), "route" (ISMN, PRN).
    A detector flags an input whose score is at or above ``threshold``, which `calibrate` fits on clean
    validation images once, before any attack.
    """

    policy: str = "pass"
    differentiable: bool = True
    """False when `reform` has no useful gradient: an adaptive attacker then needs BPDA."""
    randomised: bool = False
    """True when a decision draws at random: attacks then average over draws (EOT), and it is judged several times."""
    exact: Mapping[str, int] = {}
    """Surrogates of a randomised defence that draw nothing, because they hold the expectation itself, and how many
    classifier passes each look at them makes."""
    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(float("inf")))

    def reform(self, x: Tensor) -> Tensor:
        """Return the cleaned images, same shape, in [0, 1]."""
        return x

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        """Return suspicion [N], higher is more suspicious."""
        return x.new_zeros(len(x))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit thresholds on clean images [n, C, H, W]."""

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        """Answer for x [N, C, H, W]."""
        score = self.score(x, classify)
        flagged = score >= self.threshold
        reformed = self.reform(x)
        if self.policy == "route":
            chosen = flagged[:, None, None, None]
            logits = classify(torch.where(chosen, reformed, x))
            return Decision(logits, flagged, torch.zeros_like(flagged), score, flagged.long())
        rejected = flagged if self.policy == "reject" else torch.zeros_like(flagged)
        return Decision(classify(reformed), flagged, rejected, score, torch.ones_like(flagged).long())

    def trace(self, x: Tensor, classify: Classify) -> list[Waypoint]:
        """Return the pictures that `decide` makes of x [N, C, H, W], in their order.

        The classifier answers on the last one taken by an input, or on the input itself where none is. What is
        drawn at random is drawn as in `decide`: under the same seed both see the same.
        """
        flagged = self.score(x, classify) >= self.threshold
        reformed = self.reform(x)
        if reformed is x:
            return []
        return [Waypoint("reformed", reformed, flagged if self.policy == "route" else torch.ones_like(flagged))]

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        """Return the functions an adaptive attacker should go through, by name; see `Reading`.

        A reformer without gradients is passed by the identity (BPDA, Athalye et al. 2018); the name says so.
        """
        name = "reformed" if self.differentiable else "bpda"
        reform = self.reform if self.differentiable else straight_through(self.reform)
        guards = {name: self.policy == "reject"} | ({"clean-route": True} if self.policy == "route" else {})

        def read(x: Tensor, route: str) -> Reading:
            margin = self.margin(x, classify) if guards[route] else None
            return Reading(classify(x if route == "clean-route" else reform(x)), margin)

        return {route: functools.partial(read, route=route) for route in guards}

    def margin(self, x: Tensor, classify: Classify) -> Tensor:
        """Return how far the score stands above the threshold, [N]: 0 and more is flagged."""
        return self.score(x, classify) - self.threshold


def straight_through(reform: Reform) -> Reform:
    """Return ``reform`` with the gradient of the identity (BPDA, Athalye et al. 2018)."""
    # The sum of two terms, the second exactly zero: what goes forward is the reformed image bit for bit.
    return lambda x: reform(x).detach() + (x - x.detach())


class Pipeline(nn.Module):
    """A defended system.

    ``base`` is the undefended classifier that a gray-box attacker holds; ``classifier`` gives the answers. They
    are the same module unless the defence brings a hardened classifier of its own, as ISMN does.
    """

    def __init__(self, base: nn.Module, defence: Defence, classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.base = base
        self.defence = defence
        self.classifier = base if classifier is None else classifier

    def decide(self, x: Tensor) -> Decision:
        """Answer for x [N, C, H, W] in [0, 1]."""
        decision: Decision = self.defence.decide(x, self.classifier)
        return decision

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K] of the answer, as a white-box attacker sees them."""
        return self.decide(x).logits

    def surrogates(self) -> dict[str, Surrogate]:
        """Return the defence's surrogates as modules, by name."""
        found: dict[str, Read] = self.defence.surrogates(self.classifier)
        exact, randomised = self.defence.exact, self.defence.randomised
        return {
            name: Surrogate(self, read, exact.get(name, 1), randomised and name not in exact)
            for name, read in found.items()
        }

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules that have weights of their own, by name: base, defence and perhaps classifier."""
        own = {"base": self.base, "defence": self.defence}
        return own if self.classifier is self.base else own | {"classifier": self.classifier}


class Surrogate(nn.Module):
    """One route through a defended system as a module with logits, for any attack.

    Attacks that know of detectors call `look` instead.
    """

    def __init__(self, system: nn.Module, read: Read, cost: int = 1, drawn: bool = False) -> None:
        """Wrap ``read``. ``cost``: classifier passes of one look; ``drawn``: whether a look draws at random."""
        super().__init__()
        self.cost, self.drawn = cost, drawn
        # A submodule, so that mode and parameters are seen by who borrows the surrogate.
        self.system = system
        self.read = read
        self.training = system.training

    def look(self, x: Tensor) -> Reading:
        """Return logits and margin for x [N, C, H, W] in [0, 1]."""
        return self.read(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K]."""
        return self.read(x).logits
