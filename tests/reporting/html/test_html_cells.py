"""A cell reduced to what a page shows of it: counts that can be counted by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from report_cells import FEW, answers, cell, result, results, samples

from ismn_cli.core.detection import auroc
from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import CellResult
from ismn_cli.reporting.html.cells import POINTS, Reduced, cell_figures


@FEW
@given(results())
def test_classes_confusion_and_loops_are_counts(found: CellResult) -> None:
    figures, n = cell_figures(found), len(found.ids)
    assert Counter(found.labels) == {k: count for k, count in enumerate(figures.total) if count}
    right = Counter(label for label, hit in zip(found.labels, answered_right(found), strict=True) if hit)
    assert right == {k: count for k, count in enumerate(figures.right) if count}
    shown = found.attacked or found.clean
    k = len(figures.total)
    expected: Counter[tuple[int, int]] = Counter()
    for i, (label, guess, refused) in enumerate(zip(found.labels, shown.predicted, shown.rejected, strict=True)):
        lost = found.attacked is not None and found.failed[i]
        expected[label, k + 1 if lost else k if refused else guess] += 1
    assert figures.confusion is not None and figures.confusion.sum() == n
    assert {place: figures.confusion[place] for place in expected} == expected
    assert Counter(found.clean.loops) == {times: count for times, count in enumerate(figures.loops_clean) if count}


@FEW
@given(results())
def test_distances_are_those_of_the_images_that_the_attack_did_not_fail_on(found: CellResult) -> None:
    figures = cell_figures(found)
    kept = sorted(d for d, lost in zip(found.linf, found.failed, strict=True) if not lost)
    if not kept:
        assert figures.linf == ()
        return
    assert (figures.linf[0], figures.linf[-1]) == (kept[0], kept[-1])
    middle = (kept[(len(kept) - 1) // 2] + kept[len(kept) // 2]) / 2
    assert figures.linf[3] == pytest.approx(middle)


def test_a_long_curve_keeps_its_ends_and_its_area() -> None:
    n = 4000
    draw = np.random.default_rng(3)
    where = cell("magnet", "pgd", 0.1, samples=samples(n=n))
    clean = answers(n, n).model_copy(update={"score": tuple(draw.normal(0, 1, n).tolist())})
    attacked = answers(n, 0).model_copy(update={"score": tuple(draw.normal(1, 1, n).tolist())})
    found = result(where, clean, attacked)
    curve = cell_figures(found).roc
    assert curve is not None and 100 < len(curve) <= POINTS
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1]
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(auroc(found), abs=0.5 / POINTS)


@pytest.mark.parametrize("label", [-1, 10**12])
def test_labels_that_are_no_classes_cost_no_memory(label: int) -> None:
    where = cell("magnet", "pgd", 0.1, samples=samples(n=3))
    found = result(where, answers(3, 3), answers(3, 0), labels=(label, 0, 1))
    strange = found.model_copy(update={"clean": found.clean.model_copy(update={"loops": (label, 0, 0)})})
    figures = cell_figures(strange)
    assert figures.total == () and figures.confusion is None and figures.loops_clean == ()


def test_results_pass_one_at_a_time_and_each_is_reduced_once() -> None:
    where = cell("magnet", "pgd", 0.1, samples=samples(n=3))
    one, held = result(where, answers(3, 3), answers(3, 0)), []

    def stream():
        for _ in range(3):
            held.append("read")
            yield one

    reduced = Reduced(stream())
    for passed in reduced:
        assert passed is one and list(reduced.cells) == [where.key()]
    assert held == ["read"] * 3
