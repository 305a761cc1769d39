"""Robust accuracy against an attacker who may choose: per sample the worst over all attacks that were run.

The headline figure is the mean over samples of the minimum over attacks (Carlini et al. 2019, arXiv 1902.06705): a
sample is robust only if it is answered right without attack and survives every attack that ran on it.
The harness takes this minimum over stored outcomes, so it is exact for the attacks at hand, and an upper bound on
the true robust accuracy.

Randomised systems enter with their first draw, as in every strict figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic

from typing_extensions import TypeVar

from ismn_cli.core.arrays import BROKEN, DETECTED, SEVERITY, SURVIVED, UNKNOWN, WRONG_CLEAN, columns
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge

if TYPE_CHECKING:
    from ismn_cli.core.arrays import Codes


@dataclass(frozen=True, eq=False)
class Met:
    """An attacked cell reduced to what a worst case needs of it: a byte a sample."""

    cell: Cell
    codes: Codes
    """Outcomes, see `ismn_cli.core.arrays`."""


def met(result: CellResult) -> Met | None:
    """Return what became of the samples of an attacked cell; None for a clean one."""
    return None if result.cell.attack is None or result.attacked is None else Met(result.cell, columns(result).codes)


Attacked = TypeVar("Attacked", CellResult, Met, default=CellResult)
"""A cell, whole or reduced; a worst case that is told neither is one of whole cells."""


@dataclass(frozen=True, eq=False)
class WorstCase(Generic[Attacked]):
    """What became of each of N samples under the worst of several attacks."""

    cells: tuple[Attacked, ...]
    """The attacks, those at eps itself first, then those at smaller sizes."""
    here: int
    """How many of the attacks are at eps itself."""
    codes: Codes
    """The worst outcome of each sample, see `outcomes`."""
    first_of: Codes
    """[N] Position in ``cells`` of the first attack that brought about the worst outcome."""
    incomplete: int
    """Samples, right without attack, on which an attack at eps itself failed."""

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return the worst outcome of each sample.

        BROKEN if any attack broke it, else DETECTED if any was refused, else SURVIVED if any attack ran, else
        UNKNOWN: an attack that failed decides nothing where another one ran, and nothing is robust untried.
        """
        return self._outcomes

    @cached_property
    def _outcomes(self) -> tuple[Outcome, ...]:
        return tuple(SEVERITY[code] for code in self.codes.tolist())

    @property
    def first(self) -> tuple[int | None, ...]:
        """Position in ``cells`` of the first attack that brought about BROKEN or DETECTED; None elsewhere."""
        decided = (self.codes == BROKEN) | (self.codes == DETECTED)
        return tuple(at if by else None for at, by in zip(self.first_of.tolist(), decided.tolist(), strict=True))

    def broken_by(self) -> dict[int, int]:
        """Return how many samples each attack, by position, was the first to break."""
        import numpy as np

        counts = np.bincount(self.first_of[self.codes == BROKEN])
        return {position: int(counts[position]) for position in counts.nonzero()[0].tolist()}


class Trials(Generic[Attacked]):
    """All attacks on one system with one norm on the same images, outcomes side by side."""

    def __init__(self, results: Sequence[Attacked]) -> None:
        """Take attacked cells of one (classifier, defence, samples, norm). Raises ValueError for others."""
        if not results or len({system_key(result.cell) for result in results}) > 1:
            raise ValueError("a worst case is over the attacks of one system, norm and set of images")
        import numpy as np

        self.results: tuple[Attacked, ...] = tuple(results)
        self._codes = np.stack([_codes(result) for result in results])

    def sizes(self) -> list[float]:
        """Return every eps that was tried, in ascending order."""
        return sorted({_eps(result.cell) for result in self.results})

    def worst_case(
        self, eps: float, knowledge: Knowledge | None = None, smaller: bool = True
    ) -> WorstCase[Attacked] | None:
        """Return the worst case at ``eps`` over the attacks of a knowledge level, or over all; None without any.

        With ``smaller`` a break at a smaller eps counts: the smaller ball lies within the larger one, so the same
        image is an adversarial example there, and the number of samples broken never falls as eps grows. Outliving
        an attack at a smaller eps says nothing about this one, and does not make an untried sample robust.
        """
        sizes = [_eps(result.cell) for result in self.results]
        fitting = [i for i, result in enumerate(self.results) if knowledge in (None, result.cell.knowledge)]
        here = [i for i in fitting if sizes[i] == eps]
        if not here:
            return None
        below = [i for i in fitting if sizes[i] < eps] if smaller else []
        below.sort(key=lambda i: -sizes[i])
        return _worst_case([self.results[i] for i in here + below], len(here), self._codes[here + below])


def trials(results: Iterable[Attacked]) -> list[Trials[Attacked]]:
    """Return the attacked ones of ``results`` by system, images and norm, in order of appearance."""
    groups: dict[str, list[Attacked]] = {}
    for result in results:
        if isinstance(result, Met) or met(result):
            groups.setdefault(system_key(result.cell), []).append(result)
    return [Trials(group) for group in groups.values()]


def system_key(cell: Cell) -> str:
    """Return what the cells of one worst case have in common; cells of other seeds are attacks of their own."""
    parts = (cell.classifier, cell.defence, cell.samples)
    return ":".join([*(part.key() for part in parts), attack_of(cell).threat.norm])


def attack_of(cell: Cell) -> AttackSpec:
    """Return the attack of a cell. Raises ValueError for a clean one."""
    if cell.attack is None:
        raise ValueError("a clean cell has no attack")
    return cell.attack


def _codes(result: CellResult | Met) -> Codes:
    return result.codes if isinstance(result, Met) else columns(result).codes


def _worst_case(cells: Sequence[Attacked], here: int, codes: Codes) -> WorstCase[Attacked]:
    """Return the worst case over ``codes`` [attacks, N], which it changes."""
    below = codes[here:]
    below[below == SURVIVED] = UNKNOWN
    worst = codes.max(axis=0)
    failed = (codes[:here] == UNKNOWN).any(axis=0) & (worst != WRONG_CLEAN)
    return WorstCase(tuple(cells), here, worst, codes.argmax(axis=0), int(failed.sum()))


def _eps(cell: Cell) -> float:
    return attack_of(cell).threat.eps
