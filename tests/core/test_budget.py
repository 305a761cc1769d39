"""What a number of images costs, and how many a budget buys, against plain sums and a search."""

from __future__ import annotations

import statsmodels.stats.proportion as proportion
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.forecast import Charge, Forecast, half_width

COSTS = st.floats(0, 100)
CHARGES = st.builds(
    Charge,
    knowledge=st.just("white"),
    attack=st.just("pgd 8/255"),
    systems=st.just(("none",)),
    forwards=COSTS,
    backwards=COSTS,
    share=st.floats(0, 1),
    craft_seconds=COSTS,
    judge_seconds=COSTS,
    bytes=COSTS,
)
FORECASTS = st.builds(
    Forecast,
    charges=st.lists(CHARGES, max_size=4).map(tuple),
    fixed_seconds=COSTS,
    images=st.integers(1, 500),
    available=st.integers(1, 500),
    pilot=st.just(48),
)


@given(FORECASTS, st.floats(0, 10_000))
def test_a_budget_buys_the_most_images_that_fit_it(found: Forecast, budget: float) -> None:
    fits = [n for n in range(1, found.available + 1) if found.seconds(n) <= budget * (1 + 1e-9)]
    bought = found.affordable(budget)
    assert abs(bought - max(fits, default=0)) <= 1 and bought <= found.available
    if bought:
        assert found.seconds(bought) <= budget * (1 + 1e-9)


@given(FORECASTS)
def test_the_whole_is_the_sum_of_its_parts(found: Forecast) -> None:
    n = found.images
    parts = [n * c.share * c.craft_seconds + n * c.judge_seconds for c in found.charges]
    assert abs(found.seconds() - found.fixed_seconds - sum(parts)) <= 1e-6 * (1 + sum(parts))
    assert found.bytes() <= n * sum(c.bytes for c in found.charges) * (1 + 1e-9)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_is_the_one_of_statsmodels(n: int, share: float) -> None:
    low, high = proportion.proportion_confint(share * n, n, method="wilson")
    assert abs(half_width(n, share) - (high - low) / 2) < 1e-9
