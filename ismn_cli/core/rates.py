"""Rates of a cell, each a count over a count, and each with its one definition here.

A failed sample (the attack crashed, gave NaN or left the threat model) is no success of any defence under
attack. Rates under attack are undefined (0 of 0) for a clean cell.

Three conventions for refused inputs, each a rate of its own: strict (a refusal is an error), rejected = success
(a refusal is a win), answered only (refusals are left out). Robustness has the first two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ismn_cli.core.arrays import columns, counts
from ismn_cli.core.intervals import normal_quantile, wilson
from ismn_cli.core.records import CellResult, Draws, Outcome

if TYPE_CHECKING:
    from ismn_cli.core.arrays import Array, Codes


class Coded(Protocol):
    """What became of each sample under attack, also as numbers: a worst case over several cells."""

    @property
    def codes(self) -> Codes:
        """Outcomes as positions in `ismn_cli.core.arrays.SEVERITY`."""
        ...

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return an outcome per sample."""
        ...


Judged = CellResult | Coded
"""Whatever says what became of each sample under attack; a clean cell says nothing."""


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``total`` answers, ``draws`` of them to each sample."""

    hits: int
    total: int
    draws: int = 1

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN where it is undefined."""
        return self.hits / self.total if self.total else math.nan

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Wilson's score interval (Wilson 1927) in [0, 1]; NaN where the rate is undefined.

        Several draws on one sample are not independent: they count as one, rounded outwards, which is never too
        narrow, because a mean of draws varies no more between samples than a single draw does.
        """
        if not self.total:
            return math.nan, math.nan
        samples = self.total // self.draws
        fewest, most = self.hits // self.draws, -(-self.hits // self.draws)
        z = normal_quantile(level)
        return wilson(fewest, samples, z)[0], wilson(most, samples, z)[1]


UNDEFINED = Rate(0, 0)


def clean_accuracy(result: CellResult) -> Rate:
    """Return the share answered right without attack; a refusal is no answer."""
    return _share(columns(result).right_clean)


def answered_right(result: CellResult) -> list[bool]:
    """Return for each sample whether it is answered right, under attack if there is one; a refusal is no answer."""
    right: list[bool] = (columns(result).right_clean if result.attacked is None else _strict(result)).tolist()
    return right


def strict_accuracy(result: CellResult) -> Rate:
    """Return the share answered right under attack; a refusal is no answer."""
    return _share(_strict(result))


def rejected_counts(result: CellResult) -> Rate:
    """Return MagNet's accounting (Meng and Chen 2017): right or refused under attack."""
    found = columns(result)
    attacked = found.attacked
    return UNDEFINED if attacked is None else _share((attacked.correct | attacked.rejected) & ~found.failed)


def answered_accuracy(result: CellResult) -> Rate:
    """Return the share answered right among those answered under attack: refusals are left out of both counts."""
    found = columns(result)
    if found.attacked is None:
        return UNDEFINED
    answered = found.failed | ~found.attacked.rejected
    return _share((found.attacked.correct & ~found.failed)[answered])


def reformed_accuracy(result: CellResult) -> Rate:
    """Return the share that would be answered right under attack if nothing were refused."""
    found = columns(result)
    return UNDEFINED if found.attacked is None else _share(found.attacked.correct & ~found.failed)


def robust_accuracy(result: Judged) -> Rate:
    """Return the share answered right both without attack and under it."""
    return _met(result, Outcome.SURVIVED)


def robust_or_refused(result: Judged) -> Rate:
    """Return the share answered right without attack, and right or refused under it (rejected = success)."""
    return _met(result, Outcome.SURVIVED, Outcome.DETECTED)


def right_from_the_start(result: Judged) -> Rate:
    """Return the share of attacked samples that were answered right without attack."""
    return _met(result, *(outcome for outcome in Outcome if outcome is not Outcome.WRONG_CLEAN))


def success_rate(result: Judged) -> Rate:
    """Return the attack's success rate: broken among those right at first and attacked without failure."""
    met = outcome_counts(result)
    return Rate(met[Outcome.BROKEN], met[Outcome.SURVIVED] + met[Outcome.BROKEN] + met[Outcome.DETECTED])


def detection_rate(result: CellResult) -> Rate:
    """Return the share of attacked inputs flagged; a failed attack left no attacked input to flag."""
    found = columns(result)
    return UNDEFINED if found.attacked is None else _share(found.attacked.flagged[~found.failed])


def false_positive_rate(result: CellResult) -> Rate:
    """Return the share of clean inputs flagged."""
    return _share(columns(result).clean.flagged)


def clean_mean(result: CellResult) -> Rate:
    """Return the mean accuracy of a randomised system over its draws, without attack."""
    return _mean(result.draws_clean)


def clean_worst_draw(result: CellResult) -> Rate:
    """Return the share that every draw answers right without attack."""
    return _always(result.draws_clean)


def clean_majority(result: CellResult) -> Rate:
    """Return the share that the majority of the draws answers right without attack."""
    return _majority(result.draws_clean)


def mean_accuracy(result: CellResult) -> Rate:
    """Return the mean accuracy of a randomised system over its draws under attack; a refusal is no answer."""
    return _mean(result.draws_attacked, result.failed)


def worst_draw(result: CellResult) -> Rate:
    """Return the share that every draw answers right under attack: the attacker may ask again (worst of k)."""
    return _always(result.draws_attacked, result.failed)


def majority_accuracy(result: CellResult) -> Rate:
    """Return the share that the majority of the draws answers right under attack."""
    return _majority(result.draws_attacked, result.failed)


def outcome_counts(result: Judged) -> dict[Outcome, int]:
    """Return how many samples met each outcome; all are 0 for a clean cell."""
    return counts(columns(result).codes if isinstance(result, CellResult) else result.codes)


def right_clean(result: CellResult) -> list[bool]:
    """Return for each sample whether it is answered right without attack; a refusal is no answer."""
    right: list[bool] = columns(result).right_clean.tolist()
    return right


def _strict(result: CellResult) -> Array:
    """Return whether each attacked sample is answered right; nothing for a clean cell."""
    found = columns(result)
    if found.attacked is None:
        return found.failed[:0]
    right: Array = found.attacked.correct & ~found.attacked.rejected & ~found.failed
    return right


def _met(result: Judged, *outcomes: Outcome) -> Rate:
    """Return the share of samples that met one of ``outcomes``."""
    met = outcome_counts(result)
    return Rate(sum(met[outcome] for outcome in outcomes), sum(met.values()))


def _share(hits: Array) -> Rate:
    return Rate(int(hits.sum()), len(hits))


def _mean(draws: Draws | None, failed: tuple[bool, ...] = ()) -> Rate:
    if draws is None:
        return UNDEFINED
    return Rate(sum(_counted(draws.right, failed)), draws.k * len(draws.right), draws.k)


def _always(draws: Draws | None, failed: tuple[bool, ...] = ()) -> Rate:
    if draws is None:
        return UNDEFINED
    return Rate(sum(right == draws.k for right in _counted(draws.right, failed)), len(draws.right))


def _majority(draws: Draws | None, failed: tuple[bool, ...] = ()) -> Rate:
    if draws is None:
        return UNDEFINED
    return Rate(sum(map(bool, _counted(draws.majority_right, failed))), len(draws.majority_right))


def _counted(column: tuple[int, ...], failed: tuple[bool, ...]) -> list[int]:
    """Return the column with 0 where the attack failed."""
    return [0 if lost else value for value, lost in zip(column, failed or (False,) * len(column), strict=True)]
