"""Intervals in closed form: against scipy, and by the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from ismn_cli.core.intervals import normal_quantile, ratio_interval, wilson
from ismn_cli.core.paired import Paired

COUNTS = st.integers(0, 60)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from((0.9, 0.95)))
def test_wilson_is_scipys(share: tuple[int, int], level: float) -> None:
    expected = binomtest(*share).proportion_ci(level, "wilson")
    assert wilson(*share, normal_quantile(level)) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_ratio_lies_in_its_interval_and_turns_over_with_it(both: int, first: int, second: int, neither: int) -> None:
    low, high = ratio_interval(Paired(both, first, second, neither))
    if not both + second:
        assert math.isnan(low) and math.isnan(high)
        return
    assert 0 <= low <= (both + first) / (both + second) * (1 + 1e-9) and (both + first) / (both + second) <= high + 1e-9
    if both + first:
        other = ratio_interval(Paired(both, second, first, neither))
        assert (1 / other[1], 1 / other[0]) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("n", "cells"),
    [
        (40, (0.5, 0.1, 0.2, 0.2)),
        (40, (0.3, 0.02, 0.55, 0.13)),
        (30, (0.05, 0.1, 0.7, 0.15)),
        (40, (0.8, 0.05, 0.05, 0.1)),
    ],
)
def test_ratio_is_covered_as_often_as_promised(n: int, cells: tuple[float, float, float, float]) -> None:
    """Summed over every table of n samples that there can be, exactly."""
    truth = (cells[0] + cells[1]) / (cells[0] + cells[2])
    counts = np.stack(np.meshgrid(*[np.arange(n + 1)] * 3), -1).reshape(-1, 3)
    counts = counts[counts.sum(1) <= n]
    tables = np.column_stack([counts, n - counts.sum(1)])
    chances = multinomial.pmf(tables, n, cells)
    likely = chances > 1e-7
    covered = 0.0
    for table, chance in zip(tables[likely].tolist(), chances[likely], strict=True):
        low, high = ratio_interval(Paired(*table))
        covered += chance * bool(low <= truth <= high)
    assert 0.935 <= covered / chances[likely].sum() <= 0.985
