"""Robust accuracy against an attacker who may choose: per sample the worst over all attacks that were run.

The headline figure is the mean over samples of the minimum over attacks (Carlini et al. 2019, arXiv 1902.06705): a
sample is robust only if it is answered right without attack and survives every attack that ran on it.
The harness takes this minimum over stored outcomes, so it is exact for the attacks at hand, and an upper bound on
the true robust accuracy.

Randomised systems enter with their first draw, as in every strict figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[Any]

SEVERITY = (Outcome.UNKNOWN, Outcome.SURVIVED, Outcome.DETECTED, Outcome.BROKEN, Outcome.WRONG_CLEAN)
"""From what says nothing to what settles it: the worst outcome of a sample is the last of these that it met."""


@dataclass(frozen=True)
class WorstCase:
    """What became of each of N samples under the worst of several attacks."""

    cells: tuple[CellResult, ...]
    """The attacks, those at eps itself first, then those at smaller sizes."""
    here: int
    """How many of the attacks are at eps itself."""
    worst: tuple[Outcome, ...]
    first: tuple[int | None, ...]
    """Position in ``cells`` of the first attack that brought about BROKEN or DETECTED; None elsewhere."""
    incomplete: int
    """Samples, right without attack, on which an attack at eps itself failed."""

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return the worst outcome of each sample.

        BROKEN if any attack broke it, else DETECTED if any was refused, else SURVIVED if any attack ran, else
        UNKNOWN: an attack that failed decides nothing where another one ran, and nothing is robust untried.
        """
        return self.worst

    def broken_by(self) -> dict[int, int]:
        """Return how many samples each attack, by position, was the first to break."""
        pairs = zip(self.worst, self.first, strict=True)
        found = Counter(first for outcome, first in pairs if outcome is Outcome.BROKEN and first is not None)
        return dict(sorted(found.items()))


class Trials:
    """All attacks on one system with one norm on the same images, outcomes side by side."""

    def __init__(self, results: Sequence[CellResult]) -> None:
        """Take attacked cells of one (classifier, defence, samples, norm). Raises ValueError for others."""
        if not results or len({system_key(result.cell) for result in results}) > 1:
            raise ValueError("a worst case is over the attacks of one system, norm and set of images")
        import numpy as np

        rank = {outcome: severity for severity, outcome in enumerate(SEVERITY)}
        self.results = tuple(results)
        self._codes = np.array([[rank[outcome] for outcome in r.outcomes()] for r in results], dtype=np.int8)

    def sizes(self) -> list[float]:
        """Return every eps that was tried, in ascending order."""
        return sorted({_eps(result) for result in self.results})

    def worst_case(self, eps: float, knowledge: Knowledge | None = None, smaller: bool = True) -> WorstCase | None:
        """Return the worst case at ``eps`` over the attacks of a knowledge level, or over all; None without any.

        With ``smaller`` a break at a smaller eps counts: the smaller ball lies within the larger one, so the same
        image is an adversarial example there, and the number of samples broken never falls as eps grows. Outliving
        an attack at a smaller eps says nothing about this one, and does not make an untried sample robust.
        """
        fitting = [i for i, result in enumerate(self.results) if knowledge in (None, result.cell.knowledge)]
        here = [i for i in fitting if _eps(self.results[i]) == eps]
        if not here:
            return None
        below = [i for i in fitting if _eps(self.results[i]) < eps] if smaller else []
        below.sort(key=lambda i: -_eps(self.results[i]))
        codes = self._codes[here + below].copy()
        return _worst_case([self.results[i] for i in here + below], len(here), codes)


def trials(results: Sequence[CellResult]) -> list[Trials]:
    """Return the attacked ones of ``results`` by system, images and norm, in order of appearance."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        if result.cell.attack is not None and result.attacked is not None:
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


def _worst_case(cells: Sequence[CellResult], here: int, codes: Codes) -> WorstCase:
    unknown, survived, detected, broken, wrong = range(len(SEVERITY))
    below = codes[here:]
    below[below == survived] = unknown
    worst, first = codes.max(axis=0), codes.argmax(axis=0)
    decided = (worst == broken) | (worst == detected)
    failed = (codes[:here] == unknown).any(axis=0) & (worst != wrong)
    return WorstCase(
        cells=tuple(cells),
        here=here,
        worst=tuple(SEVERITY[code] for code in worst.tolist()),
        first=tuple(at if by else None for at, by in zip(first.tolist(), decided.tolist(), strict=True)),
        incomplete=int(failed.sum()),
    )


def _eps(result: CellResult) -> float:
    return attack_of(result.cell).threat.eps
