"""Paired statistics against statsmodels, exact enumeration and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from ismn_cli.core.errors import UsageError
from ismn_cli.core.paired import Paired, check_same, holm, paired, power, smallest_difference
from ismn_cli.core.specs import Samples

COUNTS = st.builds(Paired, *[st.integers(0, 60)] * 4)
FEW = settings(max_examples=40, deadline=None)


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_counts_are_those_of_the_columns(pairs: list[tuple[bool, bool]]) -> None:
    counts = paired([a for a, _ in pairs], [b for _, b in pairs])
    assert counts == Paired(*(sum(pair == kind for pair in pairs) for kind in product((True, False), repeat=2)))
    assert counts.total == len(pairs)
    if pairs:
        assert counts.difference == pytest.approx(np.mean([a for a, _ in pairs]) - np.mean([b for _, b in pairs]))


def test_columns_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError):
        paired([True], [True, False])


@FEW
@given(COUNTS)
def test_p_is_mcnemars(counts: Paired) -> None:
    table = [[counts.both, counts.only_first], [counts.only_second, counts.neither]]
    differ = counts.only_first + counts.only_second
    expected = mcnemar(table, exact=True).pvalue if differ else 1.0
    assert counts.p_value() == pytest.approx(min(1.0, expected))


@settings(max_examples=8, deadline=None)  # each call of theirs collects garbage first
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected.tolist())


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == ()


@given(COUNTS)
def test_interval_holds_the_difference_and_turns_with_the_order(counts: Paired) -> None:
    if not counts.total:
        assert all(map(math.isnan, counts.interval())) and math.isnan(counts.difference)
        return
    low, high = counts.interval()
    assert -1 <= low <= counts.difference <= high <= 1
    turned = Paired(counts.both, counts.only_second, counts.only_first, counts.neither)
    assert turned.interval() == pytest.approx((-high, -low))
    wide = counts.interval(0.99)
    assert wide[0] <= low and high <= wide[1]


def outcomes(n: int, chances: tuple[float, float, float]) -> list[tuple[Paired, float]]:
    """Return everything that ``n`` samples can show, each with its chance."""
    pairs = [(first, second) for first in range(n + 1) for second in range(n + 1 - first)]
    counts = [(first, second, n - first - second) for first, second in pairs]
    found = multinomial.pmf(np.array(counts), n, chances)
    return [(Paired(rest, a, b, 0), chance) for (a, b, rest), chance in zip(counts, found, strict=True)]


@pytest.mark.parametrize(
    ("first", "second"), [(0.3, 0.1), (0.1, 0.1), (0.05, 0.02), (0.5, 0.2), (0.2, 0.0), (0.05, 0.0), (0.9, 0.05)]
)
def test_interval_covers_the_truth_about_as_often_as_it_says(first: float, second: float) -> None:
    covered = 0.0
    for counts, chance in outcomes(40, (first, second, 1 - first - second)):
        low, high = counts.interval()
        covered += chance * (low - 1e-12 <= first - second <= high + 1e-12)
    assert covered >= 0.94


@pytest.mark.parametrize(
    ("n", "difference", "differ"), [(12, 0.5, 0.6), (20, 0.3, 0.3), (15, 0.0, 0.4), (18, 0.2, 0.9)]
)
def test_power_is_that_of_every_outcome_summed(n: int, difference: float, differ: float) -> None:
    chances = ((differ + difference) / 2, (differ - difference) / 2, 1 - differ)
    found = sum(chance for counts, chance in outcomes(n, chances) if counts.p_value() <= 0.05)
    assert power(n, difference, differ) == pytest.approx(found, abs=1e-8)
    assert power(n, -difference, differ) == pytest.approx(found, abs=1e-8)


def test_smallest_difference_is_found_four_times_in_five() -> None:
    """Simulated: 200 samples, systems that differ on one in ten."""
    n, differ = 200, 0.1
    difference = smallest_difference(n, differ)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, ((differ + difference) / 2, (differ - difference) / 2, 1 - differ), size=2000)
    p_values = {(a, b): Paired(0, int(a), int(b), 0).p_value() for a, b, _ in np.unique(counts, axis=0)}
    found = sum(p_values[a, b] <= 0.05 for a, b, _ in counts)
    assert 0.77 < found / 2000 < 0.83


@FEW
@given(st.integers(6, 2000), st.floats(0, 1))
def test_smallest_difference_has_the_power_and_a_smaller_one_has_not(n: int, differ: float) -> None:
    found = smallest_difference(n, differ)
    assert power(n, found, max(differ, found)) >= 0.8
    smaller = found - 1e-4
    assert power(n, smaller, max(differ, smaller)) < 0.8


@pytest.mark.parametrize("differ", [0.05, 0.2, 0.5])
def test_smallest_difference_is_near_connors_in_large_samples(differ: float) -> None:
    n, found = 10_000, smallest_difference(10_000, differ)
    needed = (1.959964 * math.sqrt(differ) + 0.841621 * math.sqrt(differ - found**2)) ** 2 / found**2
    assert needed == pytest.approx(n, rel=0.04)
    assert smallest_difference(4 * n, differ) == pytest.approx(found / 2, rel=0.03)


def test_too_few_samples_show_nothing() -> None:
    # Five of five on one side: p = 2 / 32, more than 0.05.
    assert all(math.isnan(smallest_difference(n, 0.5)) for n in range(6))
    assert smallest_difference(6, 1.0) < 1
    assert math.isnan(Paired(0, 0, 0, 0).smallest_shown()) and Paired(90, 10, 0, 0).smallest_shown() < 0.2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "mini"}, "data sets"),
        ({"split": "train"}, "data sets"),
        ({"count": 9}, "numbers of images differ (10 and 9)"),
        ({"ids": "b" * 64}, "sample ids"),
        ({"data": "b" * 64}, "pixels"),
    ],
)
def test_other_images_are_refused_with_the_reason(change: dict[str, object], reason: str) -> None:
    mine = Samples(dataset="cifar10", split="test", count=10, total=100, ids="a" * 64, data="a" * 64)
    check_same(mine, mine.model_copy())
    with pytest.raises(UsageError) as caught:
        check_same(mine, mine.model_copy(update=change))
    assert reason in caught.value.message and "ismn attack --defence" in caught.value.hint
