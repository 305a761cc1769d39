"""The curves of a detector: the area under the ROC is AUROC, and risk against coverage is counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from core_cells import results
from hypothesis import given

from ismn_cli.core.detection import auroc, has_detector, risk_coverage, roc
from ismn_cli.core.rates import answered_accuracy
from ismn_cli.core.records import CellResult

KNOWN = results()


@given(KNOWN)
def test_the_area_under_the_roc_is_auroc(result: CellResult) -> None:
    points, area = roc(result), auroc(result)
    assert (points is None) == math.isnan(area)
    if points is not None:
        assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]
        assert (np.diff(points, axis=0) >= 0).all()
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(area)


@given(KNOWN)
def test_risk_and_coverage_are_counts_at_every_threshold(result: CellResult) -> None:
    points = risk_coverage(result)
    assert (points is not None) == (has_detector(result) and len(result.ids) > 0)  # magnet refuses by its score
    if points is None or result.attacked is None:
        return
    pairs = zip(result.attacked.score, result.failed, strict=True)
    scores = [-math.inf if math.isnan(score) or lost else score for score, lost in pairs]
    wrong = [
        lost or guess != label
        for lost, guess, label in zip(result.failed, result.attacked.predicted, result.labels, strict=True)
    ]
    expected = []
    for cut in sorted(set(scores)):
        answered = [bad for bad, score in zip(wrong, scores, strict=True) if score <= cut]
        expected.append((len(answered) / len(scores), sum(answered) / len(answered)))
    assert points.tolist() == [pytest.approx(point) for point in expected]


@given(KNOWN)
def test_at_the_systems_own_threshold_the_risk_is_that_of_the_table(result: CellResult) -> None:
    """Where refusals are exactly the scores above a cut, the curve passes through the figures of the table."""
    points, attacked = risk_coverage(result), result.attacked
    if points is None or attacked is None:
        return
    cut = sorted(attacked.score)[len(attacked.score) // 2]
    refused = tuple(score > cut for score in attacked.score)
    own = result.model_copy(update={"attacked": attacked.model_copy(update={"rejected": refused})})
    answered = answered_accuracy(own)
    if answered.total and not any(map(math.isnan, attacked.score)):
        at = [risk for coverage, risk in points.tolist() if math.isclose(coverage, answered.total / len(result.ids))]
        assert at == [pytest.approx(1 - answered.value)]
