"""Balanced accuracy and the majority-class rate against their definitions, counted out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.balance import balanced_accuracy, majority_rate, uneven

ANSWERS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60)


@given(ANSWERS)
def test_balanced_accuracy_is_the_mean_recall(answers: list[tuple[int, bool]]) -> None:
    labels, right = [label for label, _ in answers], [hit for _, hit in answers]
    recalls = []
    for k in range(5):
        of_class = [hit for label, hit in answers if label == k]
        if of_class:
            recalls.append(sum(of_class) / len(of_class))
    assert balanced_accuracy(labels, right) == pytest.approx(sum(recalls) / len(recalls))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 4))
def test_one_answer_for_all_gets_one_class_right(labels: list[int], answer: int) -> None:
    right = [label == answer for label in labels]
    wanted = 1 / len(set(labels)) if answer in labels else 0.0
    assert balanced_accuracy(labels, right) == pytest.approx(wanted)
    assert sum(right) / len(labels) <= majority_rate(labels)
    assert max(sum(label == k for label in labels) for k in range(5)) / len(labels) == majority_rate(labels)


@given(ANSWERS, st.integers(2, 4))
def test_more_of_the_same_changes_nothing(answers: list[tuple[int, bool]], times: int) -> None:
    labels, right = [label for label, _ in answers], [hit for _, hit in answers]
    again = [label for label in labels for _ in range(times if label == labels[0] else 1)]
    hits = [hit for label, hit in answers for _ in range(times if label == labels[0] else 1)]
    assert balanced_accuracy(again, hits) == pytest.approx(balanced_accuracy(labels, right))


@given(st.integers(1, 20), st.lists(st.booleans(), min_size=1, max_size=20))
def test_on_even_classes_it_is_accuracy(classes: int, right: list[bool]) -> None:
    labels = [k for k in range(classes) for _ in right]
    hits = [hit for _ in range(classes) for hit in right]
    assert balanced_accuracy(labels, hits) == pytest.approx(sum(hits) / len(hits))
    assert majority_rate(labels) == pytest.approx(1 / classes)
    assert uneven(classes, majority_rate(labels)) == (classes == 2)


def test_without_images_both_are_undefined() -> None:
    assert math.isnan(balanced_accuracy([], [])) and math.isnan(majority_rate([]))
    assert not uneven(0, math.nan)


@pytest.mark.parametrize(
    ("classes", "majority", "shown"), [(2, 0.5, True), (10, 0.15, False), (10, 0.1501, True), (3, 0.5, False)]
)
def test_what_is_uneven(classes: int, majority: float, shown: bool) -> None:
    assert uneven(classes, majority) is shown
