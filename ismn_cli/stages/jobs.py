"""What is to be crafted, on what, and how it is judged on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ismn_cli.core.effort import passes
from ismn_cli.core.records import Answers, Draws
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge
from ismn_cli.stages.resolve import Resolved
from ismn_cli.stages.user_defences import asked

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ismn_cli.threats.worst_case import Verdict
    from ismn_models.pipeline import Pipeline

REFUSAL = None
"""A refusal counts as an answer of its own."""


@dataclass(frozen=True)
class Job:
    """An attack and the cells that share its examples."""

    attack: AttackSpec
    knowledge: Knowledge
    cells: tuple[tuple[Resolved, Cell], ...]
    sources: tuple[Resolved, ...] = ()
    survivors: bool = False
    """Whether only the samples are attacked that are not answered wrong already."""
    previous: Cell | None = None
    """The cell before, whose broken samples are carried over."""

    def without(self, found: Container[str]) -> Job:
        """Return the job with the cells that are not in ``found``."""
        return replace(self, cells=tuple(pair for pair in self.cells if pair[1].key() not in found))

    def views(self) -> dict[str, nn.Module]:
        """Return the modules that the attacker may build on, in the precision of the cells' search."""
        from ismn_cli.engine.passes import for_search
        from ismn_cli.threats.views import views

        search = self.cells[0][1].search
        sources = [for_search(source.pipeline, search) for source in self.sources]
        return views(for_search(self._system().pipeline, search), self.knowledge, sources, self.attack.eot)

    @cached_property
    def passes(self) -> float:
        """About how many passes the attack makes on an image that holds: through one view after the other."""
        from ismn_cli.engine.counting import cost_of
        from ismn_models.pipeline import Surrogate

        detector = self._system().pipeline.defence.policy != "pass"
        return sum(
            cost_of(view) * passes(self.attack, guarded=detector and isinstance(view, Surrogate))
            for view in self.views().values()
        )

    def verdict(self, seed: int) -> Verdict | None:
        """Return the attacker's own look at the whole system, which only an adaptive one has."""
        if self.knowledge is not Knowledge.ADAPTIVE:
            return None
        system = self._system()
        rank = verdict(system.pipeline, seed, self.cells[0][1].draws)
        return lambda x, y: asked(system.subject.name, lambda: rank(x, y))

    def label(self) -> str:
        """Return a short name: the attack, and the defence whose score is shown."""
        return f"{self.attack.label()} {self.knowledge}, {self.cells[-1][0].subject.name}"

    def notes(self) -> tuple[str, ...]:
        """Return what the attacker had to do about steps without gradients and random ones."""
        found = []
        if self.knowledge is Knowledge.ADAPTIVE and "bpda" in self._system().pipeline.surrogates():
            found.append("BPDA: on the route bpda the identity stands for the reformer's gradient")
        if self.attack.eot > 1:
            found.append(f"EOT: each look at a random step is the mean of {self.attack.eot} draws")
        return tuple(found)

    def _system(self) -> Resolved:
        return self.cells[0][0]


def verdict(pipeline: Pipeline, seed: int, draws: int) -> Verdict:
    """Return a function that says how far ``pipeline`` is from a right answer; of several draws the majority counts."""

    def rank(x: Tensor, y: Tensor) -> Tensor:
        import torch

        from ismn_cli.engine.judge import judge
        from ismn_cli.engine.rng import derive
        from ismn_cli.threats.worst_case import BROKEN, HOLDS, REFUSED

        drawn = [judge(pipeline, [x], seed=derive(seed, draw))[0] for draw in range(draws)]
        ranks = []
        for votes, label in zip(_votes(drawn), y.tolist(), strict=True):
            right, refused = votes[label], votes[REFUSAL]
            wrong = draws - right - refused
            ranks.append(HOLDS if 2 * right > draws else BROKEN if wrong >= refused else REFUSED)
        return torch.tensor(ranks, dtype=torch.long, device=x.device)

    return rank


def tally(drawn: Sequence[Answers], labels: Sequence[int]) -> Draws | None:
    """Return how often each sample was answered right; None for a system that was asked once."""
    if len(drawn) == 1:
        return None
    votes = _votes(drawn)
    right = tuple(count[label] for count, label in zip(votes, labels, strict=True))
    return Draws(k=len(drawn), right=right, majority_right=tuple(map(_wins, votes, labels)))


def _votes(drawn: Sequence[Answers]) -> list[Counter[int | None]]:
    """Return per sample how often each answer was given."""
    columns = [
        [REFUSAL if no else predicted for predicted, no in zip(a.predicted, a.rejected, strict=True)] for a in drawn
    ]
    return [Counter(answers) for answers in zip(*columns, strict=True)]


def _wins(votes: Counter[int | None], label: int) -> bool:
    """Whether the right answer is the single most frequent one: a tie is wrong."""
    return votes[label] > max((count for answer, count in votes.items() if answer != label), default=0)
