from __future__ import annotations

import math

import pytest
from core_cells import a_cell, answers, results
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core import rates
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import CellResult, Draws, Outcome

UNDER_ATTACK = [
    rates.strict_accuracy,
    rates.rejected_counts,
    rates.answered_accuracy,
    rates.reformed_accuracy,
    rates.robust_accuracy,
    rates.robust_or_refused,
    rates.detection_rate,
    rates.success_rate,
]


def wilson(hits: float, total: int, z: float) -> tuple[float, float]:
    """Wilson 1927 in closed form."""
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return centre - half, centre + half


@given(
    st.data(),
    st.integers(1, 10_000),
    st.sampled_from([(0.95, 1.959963984540054), (0.99, 2.5758293035489004)]),
)
def test_interval_is_wilsons(data: st.DataObject, total: int, level: tuple[float, float]) -> None:
    hits = data.draw(st.integers(0, total))
    low, high = Rate(hits, total).interval(level[0])
    assert (low, high) == pytest.approx(wilson(hits, total, level[1]), abs=1e-9)
    assert 0 <= low <= hits / total <= high <= 1


def test_nothing_of_nothing_is_undefined() -> None:
    rate = Rate(0, 0)
    assert math.isnan(rate.value)
    assert all(math.isnan(bound) for bound in rate.interval())


@given(results())
def test_accountings_agree_with_one_another(result: CellResult) -> None:
    n = len(result.ids)
    strict, magnet = rates.strict_accuracy(result), rates.rejected_counts(result)
    reformed, robust = rates.reformed_accuracy(result), rates.robust_accuracy(result)
    refused = sum(r and not f for r, f in zip(result.attacked.rejected, result.failed, strict=True))
    assert magnet.hits - strict.hits == refused
    assert robust.hits <= strict.hits <= reformed.hits <= magnet.hits
    assert robust.hits <= rates.clean_accuracy(result).hits
    assert strict.total == magnet.total == reformed.total == robust.total == n
    answered, tolerant = rates.answered_accuracy(result), rates.robust_or_refused(result)
    assert (answered.hits, answered.total) == (strict.hits, n - refused)
    assert tolerant.hits == robust.hits + rates.outcome_counts(result)[Outcome.DETECTED]
    assert rates.answered_right(result).count(True) == strict.hits
    # Meng and Chen's own words: one less the share that passed and was wrong; failures are not ours to claim.
    passed_wrong = sum(
        not r and p != y and not f
        for p, r, y, f in zip(
            result.attacked.predicted, result.attacked.rejected, result.labels, result.failed, strict=True
        )
    )
    assert magnet.hits == n - passed_wrong - sum(result.failed)


@given(results())
def test_outcomes_partition_the_samples(result: CellResult) -> None:
    counts = rates.outcome_counts(result)
    n = len(result.ids)
    success = rates.success_rate(result)
    assert sum(counts.values()) == n
    assert success.total == n - counts[Outcome.WRONG_CLEAN] - counts[Outcome.UNKNOWN]
    assert success.hits + counts[Outcome.SURVIVED] + counts[Outcome.DETECTED] == success.total
    assert counts[Outcome.SURVIVED] == rates.robust_accuracy(result).hits
    assert n - counts[Outcome.WRONG_CLEAN] == rates.clean_accuracy(result).hits


@given(results())
def test_failure_everywhere_is_no_success_anywhere(result: CellResult) -> None:
    failed = result.model_copy(update={"failed": (True,) * len(result.ids)})
    assert all(rate(failed).hits == 0 for rate in UNDER_ATTACK)
    assert rates.clean_accuracy(failed) == rates.clean_accuracy(result)


@given(results())
def test_without_refusals_the_accountings_are_one(result: CellResult) -> None:
    never = result.attacked.model_copy(update={"rejected": (False,) * len(result.ids)})
    routed = result.model_copy(update={"attacked": never})
    assert rates.strict_accuracy(routed) == rates.rejected_counts(routed) == rates.reformed_accuracy(routed)


@given(results(attacked=False))
def test_clean_cells_have_no_rates_under_attack(result: CellResult) -> None:
    assert all(rate(result) == Rate(0, 0) for rate in UNDER_ATTACK)
    assert set(rates.outcome_counts(result).values()) == {0}
    assert rates.false_positive_rate(result) == Rate(sum(result.clean.flagged), len(result.ids))


def test_a_case_counted_by_hand() -> None:
    yes, no = True, False
    result = CellResult(
        cell=a_cell(6),
        ids=range(6),
        labels=[0] * 6,
        # right, right, right, right, wrong, right but refused
        clean=answers([0, 0, 0, 0, 1, 0], rejected=[no, no, no, no, no, yes]),
        # survived, broken, refused though right, failed, refused and wrong, right by luck
        attacked=answers([0, 1, 0, 0, 1, 0], rejected=[no, no, yes, no, yes, no]),
        failed=[no, no, no, yes, no, no],
    )
    assert rates.clean_accuracy(result) == Rate(4, 6)
    assert rates.strict_accuracy(result) == Rate(2, 6)
    assert rates.rejected_counts(result) == Rate(4, 6)
    assert rates.answered_accuracy(result) == Rate(2, 4)
    assert rates.robust_or_refused(result) == Rate(2, 6)
    assert rates.reformed_accuracy(result) == Rate(3, 6)
    assert rates.robust_accuracy(result) == Rate(1, 6)
    assert rates.success_rate(result) == Rate(1, 3)
    assert rates.detection_rate(result) == Rate(2, 5)
    assert rates.false_positive_rate(result) == Rate(1, 6)


@st.composite
def asked(draw: st.DrawFn) -> tuple[CellResult, list[list[bool]]]:
    """Draw a randomised system's result: whether each of k answers to each sample is right, under attack and before."""
    result = draw(results(min_size=1))
    n, k = len(result.ids), draw(st.integers(2, 6))
    right = draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=n, max_size=n))
    draws = Draws(k=k, right=[sum(r) for r in right], majority_right=[2 * sum(r) > k for r in right])
    return result.model_copy(update={"draws_clean": draws, "draws_attacked": draws}), right


@given(asked())
def test_rates_over_draws_are_those_of_the_single_answers(found: tuple[CellResult, list[list[bool]]]) -> None:
    result, right = found
    k, n = len(right[0]), len(right)
    held = [[r and not failed for r in each] for each, failed in zip(right, result.failed, strict=True)]
    for answers_, mean, worst, majority in (
        (held, rates.mean_accuracy, rates.worst_draw, rates.majority_accuracy),
        (right, rates.clean_mean, rates.clean_worst_draw, rates.clean_majority),
    ):
        assert mean(result) == Rate(sum(map(sum, answers_)), n * k, k)
        assert worst(result) == Rate(sum(map(all, answers_)), n)
        assert majority(result) == Rate(sum(2 * sum(each) > k for each in answers_), n)
        assert worst(result).value <= mean(result).value
        low, high = mean(result).interval()
        assert 0 <= low <= mean(result).value <= high <= 1
        # It holds the interval of as many samples asked once, at the mean itself.
        centre = wilson(n * mean(result).value, n, 1.959963984540054)
        assert low <= centre[0] + 1e-9 and centre[1] <= high + 1e-9


@given(results())
def test_systems_that_are_asked_once_have_no_rates_over_draws(result: CellResult) -> None:
    for rate in (rates.mean_accuracy, rates.worst_draw, rates.majority_accuracy, rates.clean_mean):
        assert rate(result) == Rate(0, 0)
