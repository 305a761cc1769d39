"""One batch against an attacker who may choose: every view in turn, on the samples that still hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.craft import Attack, Crafted, craft_batch
from ismn_cli.engine.rng import derive

Verdict = Callable[[Tensor, Tensor], Tensor]
"""(images [n, C, H, W], labels [n]) -> how far the whole system is from a right answer, int [n]; see `HOLDS`."""

HOLDS, REFUSED, BROKEN = 0, 1, 2
"""A right answer, none, a wrong one. A refusal is kept as the best so far and attacked on."""


@dataclass(frozen=True)
class WorstCase:
    """The examples kept for N images, and through which view each came."""

    crafted: Crafted
    via: tuple[str, ...]
    """Per sample the view whose example is kept; empty where that is the clean image."""
    queries: int
    """Images shown to the whole system."""


def craft_through(
    views: Mapping[str, nn.Module],
    attack: Attack,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    seed: int,
    verdict: Verdict | None = None,
) -> WorstCase:
    """Attack x [N, C, H, W] with labels y [N] through every view; keep each sample's worst case.

    With a ``verdict`` a sample that the system gets wrong leaves before the next view, and is not attacked at all
    where it was wrong from the start. A sample has failed only where the attack failed through every view.
    Raises UsageError as `craft_batch` does.
    """
    if verdict is None:
        ((name, view),) = views.items()
        return WorstCase(craft_batch(view, attack, x, y, threat, seed), (name,) * len(x), 0)
    worst = _Worst(x, verdict(x, y))
    for name, view in views.items():
        alive = worst.alive()
        if not len(alive):
            break
        crafted = craft_batch(view, attack, x[alive], y[alive], threat, derive(seed, name))
        worst.add(name, alive, crafted, verdict(crafted.adversarial, y[alive]))
    return worst.result(len(x))


class _Worst:
    """What is kept of each sample while view after view is tried."""

    def __init__(self, x: Tensor, start: Tensor) -> None:
        self.adversarial, self.rank = x.clone(), start.clone()
        self.tried = start == BROKEN  # nothing to be gained: no attempt is missing
        self.via = [""] * len(x)
        self.linf, self.l2 = x.new_zeros(len(x)), x.new_zeros(len(x))
        self.notes: list[str] = []
        self.forwards = self.backwards = 0
        self.seconds = 0.0
        self.queries = len(x)

    def alive(self) -> Tensor:
        """Return the positions of the samples that the system does not get wrong yet."""
        return (self.rank < BROKEN).nonzero()[:, 0]

    def add(self, name: str, alive: Tensor, crafted: Crafted, rank: Tensor) -> None:
        """Take in the examples for the samples at ``alive`` [n], and the verdict on them."""
        ran = ~crafted.failed
        # As good as the clean image will do the first time: other systems may not withstand it.
        better = ran & ((rank > self.rank[alive]) | ((rank == self.rank[alive]) & ~self.tried[alive]))
        chosen = alive[better]
        self.adversarial[chosen] = crafted.adversarial[better]
        self.rank[chosen] = rank[better]
        self.linf[chosen], self.l2[chosen] = crafted.linf[better], crafted.l2[better]
        self.tried[alive[ran]] = True
        for position in chosen.tolist():
            self.via[position] = name
        self.notes += [f"{name}: {note}" for note in crafted.notes]
        self.forwards += crafted.forwards
        self.backwards += crafted.backwards
        self.seconds += crafted.seconds
        self.queries += len(alive)

    def result(self, n: int) -> WorstCase:
        """Return the outcome for all ``n`` samples."""
        crafted = Crafted(
            adversarial=self.adversarial,
            failed=~self.tried,
            notes=tuple(dict.fromkeys(self.notes)),
            linf=self.linf,
            l2=self.l2,
            forwards=self.forwards,
            backwards=self.backwards,
            seconds=self.seconds,
        )
        return WorstCase(crafted, tuple(self.via), self.queries)
