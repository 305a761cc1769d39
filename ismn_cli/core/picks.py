"""Which samples of a run are worth looking at: each outcome on each system, on the same samples where possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Knowledge

TOLD = (Outcome.BROKEN, Outcome.DETECTED, Outcome.SURVIVED)
"""What an attack has brought about, or has not; the other outcomes tell nothing of it."""
LEVELS = (Knowledge.GRAY, Knowledge.ADAPTIVE, Knowledge.WHITE, Knowledge.BLACK)
"""The seed's own protocol first, then from the strongest attacker to the weakest."""

Contest = Sequence[CellResult]
"""Cells of several systems, of one attack at one level on the same samples."""


class Pick(NamedTuple):
    """A sample of an attacked cell, by its position in the cell's columns."""

    result: CellResult
    position: int
    outcome: Outcome


def picks(results: Sequence[CellResult], most: int) -> list[Pick]:
    """Return up to ``most`` samples of a matrix: level by level, the systems of each sample beside each other.

    They are those of `main_contests`, a sample of each level in turn.
    """
    levels = [list(rows(contest)) for contest in main_contests(results)]
    in_turn = chain.from_iterable(zip_longest(*levels, fillvalue=list[Pick]()))
    kept = {(pick.result.cell.key(), pick.position) for pick in list(chain.from_iterable(in_turn))[:most]}
    order = {result.cell.key(): i for i, result in enumerate(results)}
    found = []
    for row in chain.from_iterable(levels):
        own = [pick for pick in row if (pick.result.cell.key(), pick.position) in kept]
        found += sorted(own, key=lambda pick: order[pick.result.cell.key()])
    return found


def contests(results: Sequence[CellResult]) -> list[Contest]:
    """Return the attacked cells of ``results`` by attack and level, in their order."""
    found: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        cell = result.cell
        if cell.attack is not None:
            # A system that draws at random is attacked over several draws; the attack is the same.
            attack = cell.attack.model_copy(update={"eot": 1})
            found.setdefault((cell.knowledge, attack.key(), cell.samples.key()), []).append(result)
    return list(found.values())


def main_contests(results: Sequence[CellResult]) -> list[Contest]:
    """Return one contest of each level, in the order of `LEVELS`.

    It is the one with the most different outcomes over its systems; of several, the one that breaks the most.
    """
    found = contests(results)
    own = {level: [contest for contest in found if contest[0].cell.knowledge is level] for level in LEVELS}
    return [max(of_level, key=_interest) for of_level in own.values() if of_level]


def rows(contest: Contest) -> Iterator[list[Pick]]:
    """Yield samples until each outcome of each system is shown: a list of the systems on which one tells something.

    Each next sample is the one that adds the most; those that it adds come first in its list.
    """
    outcomes = [result.outcomes() for result in contest]
    missing = _variety(contest)

    def told(position: int) -> set[tuple[int, Outcome]]:
        return {(i, own[position]) for i, own in enumerate(outcomes) if own[position] in TOLD}

    while missing:
        best = max(range(len(outcomes[0])), key=lambda position: (len(told(position) & missing), len(told(position))))
        pairs = sorted(told(best), key=lambda pair: (pair not in missing, pair[0]))
        missing = missing - told(best)
        yield [Pick(contest[i], best, outcome) for i, outcome in pairs]


def _interest(contest: Contest) -> tuple[int, int]:
    return len(_variety(contest)), sum(result.outcomes().count(Outcome.BROKEN) for result in contest)


def _variety(contest: Contest) -> set[tuple[int, Outcome]]:
    """Return which outcomes each system has, by its place in the contest."""
    return {(i, outcome) for i, result in enumerate(contest) for outcome in TOLD if outcome in result.outcomes()}
