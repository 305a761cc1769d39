"""Rates of a cell, each a count over a count, and each with its one definition here.

A failed sample (the attack crashed, gave NaN or left the threat model) is no success of any defence under
attack. Rates under attack are undefined (0 of 0) for a clean cell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ismn_cli.core.records import CellResult, Outcome


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``total``."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN where it is undefined."""
        return self.hits / self.total if self.total else math.nan

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Wilson's score interval (Wilson 1927) in [0, 1]; NaN where the rate is undefined."""
        if not self.total:
            return math.nan, math.nan
        from scipy.stats import binomtest

        found = binomtest(self.hits, self.total).proportion_ci(confidence_level=level, method="wilson")
        return float(found.low), float(found.high)


UNDEFINED = Rate(0, 0)


def clean_accuracy(result: CellResult) -> Rate:
    """Return the share answered right without attack; a refusal is no answer."""
    clean = result.clean
    answered = zip(clean.predicted, clean.rejected, result.labels, strict=True)
    return _share(right == label and not refused for right, refused, label in answered)


def strict_accuracy(result: CellResult) -> Rate:
    """Return the share answered right under attack; a refusal is no answer."""
    return _share(right and not refused and not failed for right, refused, failed in _attacked(result))


def rejected_counts(result: CellResult) -> Rate:
    """Return MagNet's accounting (Meng and Chen 2017): right or refused under attack."""
    return _share((right or refused) and not failed for right, refused, failed in _attacked(result))


def reformed_accuracy(result: CellResult) -> Rate:
    """Return the share that would be answered right under attack if nothing were refused."""
    return _share(right and not failed for right, _, failed in _attacked(result))


def robust_accuracy(result: CellResult) -> Rate:
    """Return the share answered right both without attack and under it."""
    return _share(outcome is Outcome.SURVIVED for outcome in result.outcomes())


def success_rate(result: CellResult) -> Rate:
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


def outcome_counts(result: CellResult) -> dict[Outcome, int]:
    """Return how many samples met each outcome; all are 0 for a clean cell."""
    counts = Counter(result.outcomes())
    return {outcome: counts[outcome] for outcome in Outcome}


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
