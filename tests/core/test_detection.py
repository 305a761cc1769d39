"""Detectors' figures against brute force over all pairs and all thresholds."""

from __future__ import annotations

import math

import pytest
from core_cells import a_cell, answers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from ismn_cli.core.detection import auroc, has_detector, success_at, true_positive_rate
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import Answers, CellResult
from ismn_cli.core.specs import Subject

FEW = settings(max_examples=40, deadline=None)
SCORES = st.sampled_from((-2.0, -0.5, 0.0, 0.5, 0.5000001, 3.0, math.inf)) | st.floats(-3, 3)


def scored(predicted: list[int], score: list[float], rejected: bool) -> Answers:
    flags = [value >= 1 for value in score]
    return answers(predicted, flags if rejected else [False] * len(score), flags).model_copy(
        update={"score": tuple(score)}
    )


@st.composite
def detected(draw: st.DrawFn, defence: str = "magnet") -> CellResult:
    n = draw(st.integers(2, 30))

    def column(of: st.SearchStrategy) -> list:
        return draw(st.lists(of, min_size=n, max_size=n))

    reject = defence != "ismn"
    return CellResult(
        cell=a_cell(n).model_copy(update={"defence": Subject(name=defence)}),
        ids=range(n),
        labels=[0] * n,
        clean=scored(column(st.integers(0, 1)), column(SCORES), reject),
        attacked=scored(column(st.integers(0, 1)), column(SCORES), reject),
        failed=column(st.booleans()),
    )


def attacked_scores(result: CellResult) -> list[float]:
    pairs = zip(result.attacked.score, result.failed, strict=True)
    return [score for score, failed in pairs if not failed]


@FEW
@given(detected())
def test_auroc_is_the_chance_to_score_higher(result: CellResult) -> None:
    attacked, clean = attacked_scores(result), result.clean.score
    assume(has_detector(result) and attacked)
    above = sum((a > c) + (a == c) / 2 for a in attacked for c in clean)
    assert auroc(result) == pytest.approx(above / (len(attacked) * len(clean)))
    statistic = mannwhitneyu(attacked, clean, method="asymptotic").statistic
    assert auroc(result) == pytest.approx(statistic / (len(attacked) * len(clean)))


def best_threshold(clean: tuple[float, ...], percent: int) -> float:
    """Return the lowest of all thresholds that flag at most ``percent`` % of the clean inputs, by trying each."""
    for threshold in sorted({-math.inf, *clean}):
        if 100 * sum(score > threshold for score in clean) <= percent * len(clean):
            return threshold
    raise AssertionError("the largest score flags nothing")


@FEW
@given(detected(), st.sampled_from((1, 5, 20, 50, 100)))
def test_true_positive_rate_is_the_best_at_that_false_positive_rate(result: CellResult, percent: int) -> None:
    assume(has_detector(result))
    scores = attacked_scores(result)
    threshold = best_threshold(result.clean.score, percent)
    assert true_positive_rate(result, percent) == Rate(sum(score > threshold for score in scores), len(scores))


@FEW
@given(detected(), st.sampled_from((1, 5, 20, 50)))
def test_sr_at_n_is_bryniarskis(result: CellResult, percent: int) -> None:
    assume(has_detector(result))
    threshold = best_threshold(result.clean.score, percent)
    hits = total = 0
    for i, label in enumerate(result.labels):
        if result.failed[i] or result.clean.predicted[i] != label or result.clean.score[i] > threshold:
            continue
        total += 1
        hits += result.attacked.predicted[i] != label and not result.attacked.score[i] > threshold
    assert success_at(result, percent) == Rate(hits, total)


@FEW
@given(detected("ismn"))
def test_sr_at_n_is_undefined_where_answers_were_routed(result: CellResult) -> None:
    assert success_at(result, 5) == Rate(0, 0)
    assume(has_detector(result) and attacked_scores(result))
    assert not math.isnan(auroc(result))


@pytest.mark.parametrize("name", ["none", "ddsa", "jpeg"])
def test_systems_without_a_detector_have_no_figures(name: str) -> None:
    result = CellResult(
        cell=a_cell(2).model_copy(update={"defence": Subject(name=name)}),
        ids=range(2),
        labels=[0, 0],
        clean=scored([0, 0], [0.0, 0.5], False),
        attacked=scored([0, 0], [0.0, 0.9], False),
        failed=[False, False],
    )
    assert not has_detector(result) and math.isnan(auroc(result))
    assert true_positive_rate(result, 5) == success_at(result, 5) == Rate(0, 0)


def test_equal_scores_are_no_detector_and_a_clean_cell_has_none() -> None:
    flat = CellResult(
        cell=a_cell(2), ids=range(2), labels=[0, 0], clean=answers([0, 0]), attacked=answers([0, 1]), failed=[False] * 2
    )
    clean = flat.model_copy(update={"attacked": None, "clean": scored([0, 0], [0.0, 1.0], True)})
    for result in (flat, clean):
        assert not has_detector(result) and math.isnan(auroc(result)) and success_at(result, 5) == Rate(0, 0)


def test_a_system_of_the_users_is_known_by_its_answers() -> None:
    def found(rejected: bool) -> CellResult:
        return CellResult(
            cell=a_cell(2).model_copy(update={"defence": Subject(name="mine")}),
            ids=range(2),
            labels=[0, 0],
            clean=scored([0, 0], [0.0, 0.5], rejected),
            attacked=scored([0, 1], [2.0, 0.1], rejected),
            failed=[False, False],
        )

    assert success_at(found(True), 50).total == 1 and success_at(found(False), 50).total == 0
    assert auroc(found(True)) == auroc(found(False)) == 0.75


def test_a_score_that_is_no_number_is_never_flagged() -> None:
    result = CellResult(
        cell=a_cell(2),
        ids=range(2),
        labels=[0, 0],
        clean=scored([0, 0], [0.0, 0.5], True),
        attacked=scored([1, 1], [math.nan, 0.1], True),
        failed=[False, False],
    )
    assert auroc(result) == 0.25 and success_at(result, 5) == Rate(2, 2)
