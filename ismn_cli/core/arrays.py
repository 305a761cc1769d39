"""The columns of a cell as arrays, and outcomes as numbers: for figures over many samples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import ref

from ismn_cli.core.records import Answers, CellResult, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Codes = NDArray[Any]
    """Positions in `SEVERITY`, [N], int8."""

SEVERITY = (Outcome.UNKNOWN, Outcome.SURVIVED, Outcome.DETECTED, Outcome.BROKEN, Outcome.WRONG_CLEAN)
"""From what says nothing to what settles it: the worst outcome of a sample is the last of these that it met."""
UNKNOWN, SURVIVED, DETECTED, BROKEN, WRONG_CLEAN = range(len(SEVERITY))


@dataclass(frozen=True, eq=False)
class Replies:
    """Answers to N samples, each array [N]."""

    answers: Answers
    labels: Array

    @cached_property
    def rejected(self) -> Array:
        """Whether each was refused."""
        return _mask(self.answers.rejected)

    @cached_property
    def flagged(self) -> Array:
        """Whether the detector flagged each."""
        return _mask(self.answers.flagged)

    @cached_property
    def correct(self) -> Array:
        """Whether each label was found, refused or not."""
        import numpy as np

        found: Array = np.array(self.answers.predicted) == self.labels
        return found

    @cached_property
    def score(self) -> Array:
        """The detector's scores; NaN, which no threshold flags, as the lowest of all."""
        import numpy as np

        scores = np.array(self.answers.score, dtype=float)
        return np.where(np.isnan(scores), -np.inf, scores)

    @cached_property
    def ascending(self) -> Array:
        """The scores in ascending order."""
        import numpy as np

        return np.sort(self.score)


@dataclass(frozen=True, eq=False)
class Columns:
    """What a cell holds of N samples; ``attacked`` is None for a clean cell."""

    clean: Replies
    attacked: Replies | None
    failed: Array
    """[N], bool: the attack crashed, gave NaN or left the threat model."""

    @cached_property
    def right_clean(self) -> Array:
        """Whether each is answered right without attack; a refusal is no answer."""
        right: Array = self.clean.correct & ~self.clean.rejected
        return right

    @cached_property
    def codes(self) -> Codes:
        """What became of each under attack, as in `CellResult.outcomes`; none of a clean cell."""
        import numpy as np

        if self.attacked is None:
            return np.empty(0, np.int8)
        met = [~self.right_clean, self.failed, self.attacked.rejected, self.attacked.correct]
        return np.select(met, [WRONG_CLEAN, UNKNOWN, DETECTED, SURVIVED], BROKEN).astype(np.int8)


_last: tuple[ref[CellResult], Columns] | None = None


def columns(result: CellResult) -> Columns:
    """Return the columns of ``result``.

    Those of the last cell are kept: a report asks a score of figures of one cell, then goes on to the next.
    """
    global _last
    kept = _last
    if kept is None or kept[0]() is not result:
        _last = kept = ref(result), _columns(result)
    return kept[1]


def counts(codes: Codes) -> dict[Outcome, int]:
    """Return how many samples met each outcome."""
    import numpy as np

    found = dict(zip(SEVERITY, np.bincount(codes, minlength=len(SEVERITY)).tolist(), strict=True))
    return {outcome: found[outcome] for outcome in Outcome}


def _columns(result: CellResult) -> Columns:
    import numpy as np

    labels = np.array(result.labels)
    attacked = None if result.attacked is None else Replies(result.attacked, labels)
    return Columns(Replies(result.clean, labels), attacked, _mask(result.failed))


def _mask(column: Sequence[bool]) -> Array:
    import numpy as np

    return np.array(column, dtype=bool)
