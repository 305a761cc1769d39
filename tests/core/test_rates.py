from __future__ import annotations

import math

import pytest
from core_cells import a_cell, answers, results
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core import rates
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import CellResult, Outcome

UNDER_ATTACK = [
    rates.strict_accuracy,
    rates.rejected_counts,
    rates.reformed_accuracy,
    rates.robust_accuracy,
    rates.detection_rate,
    rates.success_rate,
]


def wilson(hits: int, total: int, z: float) -> tuple[float, float]:
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
    assert rates.reformed_accuracy(result) == Rate(3, 6)
    assert rates.robust_accuracy(result) == Rate(1, 6)
    assert rates.success_rate(result) == Rate(1, 3)
    assert rates.detection_rate(result) == Rate(2, 5)
    assert rates.false_positive_rate(result) == Rate(1, 6)
