"""Score intervals in closed form: of a share, and of the ratio of two shares of the same samples."""

from __future__ import annotations

import math
from statistics import NormalDist

from ismn_cli.core.paired import Paired


def normal_quantile(level: float) -> float:
    """Return z with P(|Z| <= z) = ``level``: 1.96 at 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(hits: float, total: float, z: float) -> tuple[float, float]:
    """Return Wilson's score interval (Wilson 1927) for ``hits`` of ``total``, which need not be whole numbers."""
    middle = (hits + z * z / 2) / (total + z * z)
    half = z * math.sqrt(hits * (total - hits) / total + z * z / 4) / (total + z * z)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == total else middle + half)


def ratio_interval(counts: Paired, level: float = 0.95) -> tuple[float, float]:
    """Return an interval for the first share over the second; NaN where the second is 0.

    Hybrid of two Wilson intervals for paired shares (Bonett and Price 2006, Statistics in Medicine 25, 3039-3047).
    """
    first, second = counts.both + counts.only_first, counts.both + counts.only_second
    if not second:
        return math.nan, math.nan
    met = counts.both + counts.only_first + counts.only_second
    apart = math.sqrt((counts.only_first + counts.only_second + 2) / ((first + 1) * (second + 1)))
    z = normal_quantile(level) * apart / (_log_error(first, met) + _log_error(second, met))
    (low, high), (least, most) = wilson(first, met, z), wilson(second, met, z)
    return low / most, high / least


def _log_error(hits: int, met: int) -> float:
    """Return the standard error of the logarithm of a share, with a sample added to each outcome."""
    return math.sqrt((1 - (hits + 1) / (met + 2)) / (hits + 1))
