"""Rates of a cell, each a count over a count, and each with its one definition here.

A failed sample (the attack crashed, gave NaN or left the threat model) is no success of any defence under
attack. Rates under attack are undefined (0 of 0) for a clean cell.

Three conventions for refused inputs, each a rate of its own: strict (a refusal is an error), rejected = success
(a refusal is a win), answered only (refusals are left out). Robustness has the first two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ismn_cli.core.records import CellResult, Draws, Outcome


class Judged(Protocol):
    """Whatever says what became of each sample under attack: a cell, or a worst case over several."""

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return an outcome per sample; none without attack."""
        ...


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
        return _wilson(fewest, samples, level)[0], _wilson(most, samples, level)[1]


UNDEFINED = Rate(0, 0)


def clean_accuracy(result: CellResult) -> Rate:
    """Return the share answered right without attack; a refusal is no answer."""
    return _share(right_clean(result))


def answered_right(result: CellResult) -> list[bool]:
    """Return for each sample whether it is answered right, under attack if there is one; a refusal is no answer."""
    return right_clean(result) if result.attacked is None else _right_attacked(result)


def strict_accuracy(result: CellResult) -> Rate:
    """Return the share answered right under attack; a refusal is no answer."""
    return _share(_right_attacked(result))


def rejected_counts(result: CellResult) -> Rate:
    """Return MagNet's accounting (Meng and Chen 2017): right or refused under attack."""
    return _share((right or refused) and not failed for right, refused, failed in _attacked(result))


def answered_accuracy(result: CellResult) -> Rate:
    """Return the share answered right among those answered under attack: refusals are left out of both counts."""
    answered = (entry for entry in _attacked(result) if entry[2] or not entry[1])
    return _share(right and not failed for right, _, failed in answered)


def reformed_accuracy(result: CellResult) -> Rate:
    """Return the share that would be answered right under attack if nothing were refused."""
    return _share(right and not failed for right, _, failed in _attacked(result))


def robust_accuracy(result: Judged) -> Rate:
    """Return the share answered right both without attack and under it."""
    return _share(outcome is Outcome.SURVIVED for outcome in result.outcomes())


def robust_or_refused(result: Judged) -> Rate:
    """Return the share answered right without attack, and right or refused under it (rejected = success)."""
    return _share(outcome in (Outcome.SURVIVED, Outcome.DETECTED) for outcome in result.outcomes())


def right_from_the_start(result: Judged) -> Rate:
    """Return the share of attacked samples that were answered right without attack."""
    return _share(outcome is not Outcome.WRONG_CLEAN for outcome in result.outcomes())


def success_rate(result: Judged) -> Rate:
    """Return the attack's success rate: broken among those right at first and attacked without failure."""
    counts = outcome_counts(result)
    attacked = counts[Outcome.SURVIVED] + counts[Outcome.BROKEN] + counts[Outcome.DETECTED]
    return Rate(counts[Outcome.BROKEN], attacked)


def detection_rate(result: CellResult) -> Rate:
    """Return the share of attacked inputs flagged; a failed attack left no attacked input to flag."""
    if result.attacked is None:
        return UNDEFINED
    pairs = zip(result.attacked.flagged, result.failed, strict=True)
    return _share(flagged for flagged, failed in pairs if not failed)


def false_positive_rate(result: CellResult) -> Rate:
    """Return the share of clean inputs flagged."""
    return _share(result.clean.flagged)


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
    counts = Counter(result.outcomes())
    return {outcome: counts[outcome] for outcome in Outcome}


def right_clean(result: CellResult) -> list[bool]:
    """Return for each sample whether it is answered right without attack; a refusal is no answer."""
    columns = zip(result.clean.predicted, result.clean.rejected, result.labels, strict=True)
    return [predicted == label and not refused for predicted, refused, label in columns]


def _right_attacked(result: CellResult) -> list[bool]:
    return [right and not refused and not failed for right, refused, failed in _attacked(result)]


def _attacked(result: CellResult) -> Iterable[tuple[bool, bool, bool]]:
    """Yield (right, refused, failed) of each attacked sample; nothing for a clean cell."""
    attacked = result.attacked
    if attacked is not None:
        columns = zip(attacked.predicted, result.labels, attacked.rejected, result.failed, strict=True)
        for predicted, label, refused, failed in columns:
            yield predicted == label, refused, failed


def _share(hits: Iterable[bool]) -> Rate:
    found = list(hits)
    return Rate(sum(found), len(found))


def _mean(draws: Draws | None, failed: tuple[bool, ...] = ()) -> Rate:
    if draws is None:
        return UNDEFINED
    return Rate(sum(_counted(draws.right, failed)), draws.k * len(draws.right), draws.k)


def _always(draws: Draws | None, failed: tuple[bool, ...] = ()) -> Rate:
    return UNDEFINED if draws is None else _share(right == draws.k for right in _counted(draws.right, failed))


def _majority(draws: Draws | None, failed: tuple[bool, ...] = ()) -> Rate:
    return UNDEFINED if draws is None else _share(map(bool, _counted(draws.majority_right, failed)))


def _counted(column: tuple[int, ...], failed: tuple[bool, ...]) -> list[int]:
    """Return the column with 0 where the attack failed."""
    return [0 if lost else value for value, lost in zip(column, failed or (False,) * len(column), strict=True)]


def _wilson(hits: int, total: int, level: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(hits, total).proportion_ci(confidence_level=level, method="wilson")
    return float(found.low), float(found.high)
