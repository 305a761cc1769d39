"""Two systems on the same samples: what the difference between them is worth.

McNemar's exact test (McNemar 1947: of the samples on which exactly one is right, each is as likely to be so),
Holm's correction over many cells (Holm 1979), the interval of Bonett and Price for the difference, and the smallest
difference that so many samples could have shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA = 0.05
POWER = 0.8
_STEPS = 20
"""Halvings of [0, 1]: to a millionth."""


@dataclass(frozen=True)
class Paired:
    """On how many of the same samples both systems were right, only one of them, or none."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def total(self) -> int:
        """How many samples there are."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """The first system's accuracy less the second's, in [-1, 1]; NaN without samples."""
        return (self.only_first - self.only_second) / self.total if self.total else math.nan

    def p_value(self) -> float:
        """Return McNemar's exact two-sided p: 1 where the systems are right on the same samples."""
        differ = self.only_first + self.only_second
        if not differ:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.only_first, differ).pvalue)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return an interval for the difference, in [-1, 1]; NaN without samples.

        Wald's interval for paired proportions with a sample added to each of the two counts that differ (Bonett and
        Price 2012, Journal of Educational and Behavioral Statistics 37, 479-488).
        """
        if not self.total:
            return math.nan, math.nan
        n = self.total + 2
        first, second = (self.only_first + 1) / n, (self.only_second + 1) / n
        middle = first - second
        half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((first + second - middle**2) / n)
        return max(middle - half, -1.0), min(middle + half, 1.0)

    def smallest_shown(self) -> float:
        """Return `smallest_difference` at the share of samples on which the systems did differ."""
        if not self.total:
            return math.nan
        return smallest_difference(self.total, (self.only_first + self.only_second) / self.total)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Count two columns of the same samples: whether each system was right. Raises ValueError for other lengths."""
    pairs = list(zip(first, second, strict=True))
    both, only_first = pairs.count((True, True)), pairs.count((True, False))
    only_second = pairs.count((False, True))
    return Paired(both, only_first, only_second, len(pairs) - both - only_first - only_second)


def check_same(first: Samples, second: Samples) -> None:
    """Raise UsageError with every reason where two cells were not measured on the very same images."""
    found = sample_differences(first, second)
    if found:
        raise UsageError(
            f"A paired comparison needs the same images: {'; '.join(found)}.",
            "Run both in one matrix, as in: ismn attack --defence A,B --limit 200.",
        )


def sample_differences(first: Samples, second: Samples) -> list[str]:
    """Return everything in which two sets of images differ."""
    sides = (
        ("data sets", f"{first.dataset} {first.split}", f"{second.dataset} {second.split}"),
        ("numbers of images", f"{first.count:,}", f"{second.count:,}"),
        ("sample ids", first.ids[:8], second.ids[:8]),
        ("pixels", first.data[:8], second.data[:8]),
    )
    return [f"the {what} differ ({mine} and {theirs})" for what, mine, theirs in sides if mine != theirs]


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values: those at most alpha are significant together at alpha."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return tuple(adjusted)


def power(n: int, difference: float, differ: float, alpha: float = ALPHA) -> float:
    """Return the chance that McNemar's exact test on ``n`` samples finds a true ``difference`` at ``alpha``.

    The systems differ on each sample with chance ``differ`` (at least |difference|). With M ~ Binomial(n, differ)
    such samples, the first is right on B ~ Binomial(M, (1 + difference / differ) / 2) of them, and the test rejects
    where B or M - B is at most the largest c with 2 P(Binomial(M, 1/2) <= c) <= alpha: summed over M, exactly.
    """
    if not 0 < differ <= 1:
        return 0.0
    from scipy.stats import binom

    m = _likely(n, differ)
    largest = _critical(m, alpha)
    share = (1 + abs(difference) / differ) / 2
    rejects = binom.cdf(largest, m, share) + binom.cdf(largest, m, 1 - share)
    return float((binom.pmf(m, n, differ) * rejects).sum())


def smallest_difference(n: int, differ: float, alpha: float = ALPHA, target: float = POWER) -> float:
    """Return the smallest true difference that ``n`` samples show with the chance ``target`` (see `power`).

    ``differ`` is the share of samples on which the systems differ; no difference is larger than it, so it is raised
    where that is what it takes. NaN where not even systems that differ on every sample could be told apart.
    In large samples it is near Connor's (1987, Biometrics 43, 207-211) solution of
    n = (z_(1-alpha/2) sqrt(differ) + z_target sqrt(differ - d^2))^2 / d^2.
    """
    if power(n, 1.0, 1.0, alpha) < target:
        return math.nan
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if power(n, middle, max(differ, middle), alpha) < target:
            low = middle
        else:
            high = middle
    return high


def _likely(n: int, differ: float) -> NDArray[Any]:
    """Return the counts that Binomial(n, differ) takes but for a chance below 1e-11."""
    import numpy as np
    from scipy.stats import binom

    low, high = binom.ppf((1e-12, 1 - 1e-12), n, differ)
    return np.arange(max(0, int(low)), int(high) + 1)


def _critical(m: NDArray[Any], alpha: float) -> NDArray[Any]:
    """Return for each of m samples that differ the largest c with 2 P(Binomial(m, 1/2) <= c) <= alpha; -1: none."""
    from scipy.stats import binom

    guess = binom.ppf(alpha / 2, m, 0.5)
    largest: NDArray[Any] = guess - (2 * binom.cdf(guess, m, 0.5) > alpha)
    return largest
