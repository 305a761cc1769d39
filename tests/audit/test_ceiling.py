"""Ceilings against what they stand for: every labelling of every point, linear programs, exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from ismn_cli.audit import ceiling
from ismn_cli.audit.ceiling import FIRST, Possible, ceilings
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.specs import Norm, parse_eps

NORMS = st.sampled_from(Norm)


def one(images: np.ndarray, labels: np.ndarray, eps: float, norm: Norm = Norm.LINF) -> Possible:
    return ceilings(images, labels, norm, [eps])[0]


def fractional(pairs: list[tuple[int, int]], n: int) -> float:
    """Return the largest sum of x_i in [0, 1] with x_i + x_j <= 1 over ``pairs``."""
    if not pairs:
        return float(n)
    rows = np.zeros((len(pairs), n))
    for row, pair in zip(rows, pairs, strict=True):
        row[list(pair)] = 1
    return -float(linprog(-np.ones(n), A_ub=rows, b_ub=np.ones(len(pairs)), bounds=(0, 1)).fun)


def independent(pairs: list[tuple[int, int]], n: int) -> int:
    """Return how many images at most conflict with none of the others among them."""
    subsets = (c for k in range(n, -1, -1) for c in combinations(range(n), k))
    return next(len(c) for c in subsets if not any(i in c and j in c for i, j in pairs))


def best_labelling(points: list[int], labels: list[int], reach: int, top: int) -> int:
    """Return how many one-pixel images some classifier is robustly right on, by trying all classifiers.

    A classifier labels each half grey level from 0 to ``top``; images and ``reach`` are in half levels.
    """
    classes = sorted(set(labels))
    seen = [range(max(point - reach, 0), min(point + reach, top) + 1) for point in points]
    every = np.array(list(product(classes, repeat=top + 1)))
    right = [(every[:, list(there)] == label).all(1) for there, label in zip(seen, labels, strict=True)]
    return int(np.sum(right, 0).max())


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 3), st.integers(0, 6))
def test_no_classifier_of_all_that_there_are_is_above(data: st.DataObject, classes: int, reach: int) -> None:
    top = {2: 12, 3: 8}[classes]
    image = st.tuples(st.integers(0, top // 2), st.integers(0, classes - 1))
    drawn = data.draw(st.lists(image, min_size=1, max_size=7))
    levels, labels = [level for level, _ in drawn], [label for _, label in drawn]
    best = best_labelling([2 * level for level in levels], labels, reach, top)
    images = np.array(levels, np.uint8).reshape(-1, 1, 1, 1)
    found = one(images, np.array(labels), reach / 510)
    if len(set(labels)) <= 2:
        assert found.possible == best  # without odd cycles the fractions are worth nothing
    else:
        assert best <= found.possible


def pictures(pairs: list[tuple[int, int]], n: int) -> np.ndarray:
    """Return ``n`` images of which those in ``pairs`` are 128 grey levels apart at most, all others 255."""
    apart = [pair for pair in combinations(range(n), 2) if pair not in pairs]
    images = np.full((n, 1, 1, max(len(apart), 1)), 128, np.uint8)
    for pixel, (i, j) in enumerate(apart):
        images[[i, j], 0, 0, pixel] = 0, 255
    return images


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 9))
def test_any_graph_of_conflicts_has_its_linear_program_s_value(data: st.DataObject, n: int) -> None:
    pairs = sorted(data.draw(st.sets(st.sampled_from([*combinations(range(n), 2)]))))
    found = one(pictures(pairs, n), np.arange(n), 128 / 510)
    assert found.possible == pytest.approx(fractional(pairs, n), abs=1e-6)
    assert independent(pairs, n) <= found.possible
    assert found.conflicting == len({image for pair in pairs for image in pair})


@pytest.mark.parametrize("length", [3, 5, 7])
def test_an_odd_cycle_leaves_halves(length: int) -> None:
    pairs = sorted(tuple(sorted((i, (i + 1) % length))) for i in range(length))
    found = one(pictures(pairs, length), np.arange(length), 128 / 510)
    assert found == Possible(128 / 510, length, length / 2)
    assert independent(pairs, length) == length // 2


def test_two_points_leave_one() -> None:
    images = np.array([0, 60], np.uint8).reshape(2, 1, 1, 1)
    apart, near = ceilings(images, np.array([0, 1]), Norm.LINF, [29 / 255, 30 / 255])
    assert (apart.possible, near.possible) == (2, 1) and (apart.conflicting, near.conflicting) == (0, 2)
    assert one(images, np.array([1, 1]), 1.0) == Possible(1.0, 0, 2)


@st.composite
def sets(draw: st.DrawFn, kind: str = "uint8", pixels: int = 2 * FIRST + 5) -> tuple[np.ndarray, np.ndarray]:
    """Draw images near each other, a pixel or two apart from a common one, with labels."""
    n = draw(st.integers(1, 12))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from((1, 4, 40, 120)))
    images = 128 + noise.integers(-spread, spread, (n, 1, 1, pixels), endpoint=True)
    images = images.astype(np.uint8) if kind == "uint8" else noise.normal(0.5, spread / 500, images.shape).clip(0, 1)
    labels = draw(arrays.arrays(np.int64, n, elements=st.integers(0, 2)))
    return images, labels


def apart(images: np.ndarray, norm: Norm) -> np.ndarray:
    """Return scipy's distances [N, N] in pixels of [0, 1]."""
    flat = images.reshape(len(images), -1) / (255 if images.dtype == np.uint8 else 1.0)
    return cdist(flat, flat, {Norm.LINF: "chebyshev", Norm.L2: "euclidean"}[norm])


def conflicts(images: np.ndarray, labels: np.ndarray, eps: float, norm: Norm) -> list[tuple[int, int]]:
    """Return the conflicts by scipy's distances."""
    distances, pairs = apart(images, norm), combinations(range(len(images)), 2)
    return [(i, j) for i, j in pairs if labels[i] != labels[j] and distances[i, j] <= 2 * eps]


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(("uint8", "float")).flatmap(sets), NORMS, st.floats(0, 1))
def test_pairs_are_found_whatever_the_pixels_and_the_norm(made: tuple, norm: Norm, share: float) -> None:
    images, labels = made
    # A size that parts the pairs: random images are all about as far from each other.
    eps = float(np.quantile(apart(images, norm), share)) / 2 + 1e-6
    pairs = conflicts(images, labels, eps, norm)
    assert one(images, labels, eps, norm).possible == pytest.approx(fractional(pairs, len(images)), abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(sets(pixels=9 * FIRST), NORMS, st.floats(0, 1), st.integers(1, 4000))
def test_pixels_that_are_compared_where_they_lie_count_too(
    made: tuple, norm: Norm, share: float, at_once: int
) -> None:
    images, labels = made
    images[::2, ..., -1], images[1::2, ..., -1] = 0, 255  # near each other but for one
    eps = float(np.quantile(apart(images, norm), share)) / 2 + 1e-6
    pairs = conflicts(images, labels, eps, norm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceiling, "AT_ONCE", at_once)
        found = one(images, labels, eps, norm)
    assert found.possible == pytest.approx(fractional(pairs, len(images)), abs=1e-6)


def test_any_number_of_sizes() -> None:
    images, labels = np.array([0, 100], np.uint8).reshape(2, 1), np.array([0, 1])
    sizes = [k / 10_000 for k in range(2_000)]
    assert [top.possible for top in ceilings(images, labels, Norm.LINF, sizes)] == [
        1 if int(2 * eps * 255 * (1 + 1e-9)) >= 100 else 2 for eps in sizes
    ]


@settings(deadline=None, max_examples=40)
@given(sets(), NORMS, st.lists(st.floats(0, 3), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_sizes_together_are_sizes_alone_falling_in_any_order_of_images(made, norm, sizes, random) -> None:
    images, labels = made
    together = ceilings(images, labels, norm, sizes)
    assert together == [one(images, labels, eps, norm) for eps in sizes]
    ordered = sorted(together, key=lambda top: top.eps)
    assert [top.possible for top in ordered] == sorted((top.possible for top in ordered), reverse=True)
    order = random.sample(range(len(labels)), len(labels))
    assert ceilings(images[order], labels[order], norm, sizes) == together
    largest = np.unique(labels, return_counts=True)[1].max()
    assert all(max(len(labels) / 2, largest) <= top.possible <= len(labels) for top in together)


@given(
    st.fractions(0, Fraction(1, 2), max_denominator=255)
    | st.integers(0, 500).map(lambda thousandths: Fraction(thousandths, 1000)),
    st.booleans(),
)
def test_grey_levels_conflict_exactly_up_to_twice_eps(eps: Fraction, decimal: bool) -> None:
    size = parse_eps(str(float(eps)) if decimal else f"{eps.numerator}/{eps.denominator}")
    levels = int(2 * eps * 255)
    for gap, conflicting in ((levels, 2), (levels + 1, 0)):
        if gap <= 255:
            images = np.array([255 - gap, 255], np.uint8).reshape(2, 1)
            assert one(images, np.array([0, 1]), size).conflicting == conflicting
            as_floats = (images / np.float32(255)).astype(np.float32)
            assert one(as_floats, np.array([0, 1]), size).conflicting == conflicting


def test_the_published_size_is_153_grey_levels() -> None:
    pairs = {gap: np.array([0, gap], np.uint8).reshape(2, 1) for gap in (153, 154)}
    assert [one(pair, np.array([0, 1]), 0.3).conflicting for pair in pairs.values()] == [2, 0]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=80), st.integers(-1, 1))
def test_euclidean_grey_levels_are_squared_exactly(gaps: list[int], off: int) -> None:
    square = sum(gap**2 for gap in gaps)
    images = np.array([[0] * len(gaps), gaps], np.uint8)
    eps = float(np.sqrt(max(square + off, 0))) / 510
    assert (one(images, np.array([0, 1]), eps, Norm.L2).conflicting == 2) == (square <= max(square + off, 0))


@pytest.mark.parametrize("norm", Norm)
def test_the_same_image_with_two_labels_conflicts_at_size_zero(norm: Norm) -> None:
    for images in (np.full((3, 4), 7, np.uint8), np.full((3, 4), 0.3)):
        assert one(images, np.array([2, 0, 2]), 0.0, norm) == Possible(0.0, 3, 2)


@given(st.sampled_from((np.float32, np.float64)), st.integers(0, 2**32 - 1))
def test_floats_that_hold_grey_levels_are_grey_levels(kind: type, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(100, 140, (8, 3, 2, 2)).astype(np.uint8)
    labels, sizes = np.arange(8) % 3, [k / 510 for k in range(0, 41, 4)]
    forms = levels.astype(kind) / kind(255), (levels * kind(1 / 255)).astype(kind)
    for images in forms:
        assert ceilings(images, labels, Norm.LINF, sizes) == ceilings(levels, labels, Norm.LINF, sizes)


def test_other_floats_are_not_rounded_to_grey_levels() -> None:
    for kind in (np.float16, np.float32, np.float64):
        images = np.array([[0.25], [0.25 + 3 * 2**-11]], kind)  # 0.37 grey levels apart
        assert one(images, np.array([0, 1]), 2**-11).conflicting == 0
        assert one(images, np.array([0, 1]), 1.5 * 2**-11).conflicting == 2


def test_progress_runs_to_the_end_once() -> None:
    told: list[tuple[int, int]] = []
    labels = np.arange(300) % 4
    images = np.random.default_rng(0).integers(0, 255, (300, 8)).astype(np.uint8)
    ceilings(images, labels, Norm.LINF, [0.1, 0.2], lambda done, total: told.append((done, total)))
    pairs = sum(a != b for a, b in combinations(labels, 2))
    assert told[-1] == (pairs, pairs) and {total for _, total in told} == {pairs}
    assert 50 < len(told) <= 201 and [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize(
    ("images", "labels", "eps"),
    [
        (np.zeros((0, 3), np.uint8), np.zeros(0, np.int64), 0.1),
        (np.zeros((2, 3), np.uint8), np.zeros(3, np.int64), 0.1),
        (np.zeros((2, 3), np.uint8), np.zeros(2), 0.1),
        (np.zeros((2, 3), np.int32), np.zeros(2, np.int64), 0.1),
        (np.full((2, 3), 1.5), np.zeros(2, np.int64), 0.1),
        (np.full((2, 3), np.nan), np.zeros(2, np.int64), 0.1),
        (np.zeros((2, 3), np.uint8), np.zeros(2, np.int64), -0.1),
        (np.zeros((2, 3), np.uint8), np.zeros(2, np.int64), float("nan")),
    ],
)
def test_what_is_no_image_label_or_size_is_refused(images: np.ndarray, labels: np.ndarray, eps: float) -> None:
    with pytest.raises(UsageError):
        one(images, labels, eps)


def test_real_images_have_their_linear_program_s_value() -> None:
    from ismn_cli.data.loading import load_dataset

    chosen = load_dataset(DataChoice(name="cifar10-mini", limit=250), "test", Path.cwd())
    images, labels = chosen.pixels.numpy(), chosen.labels.numpy()
    for eps, top in zip((0.25, 0.3), ceilings(images, labels, Norm.LINF, [0.25, 0.3]), strict=True):
        pairs = conflicts(images, labels, eps + 1e-9, Norm.LINF)
        assert top.possible == pytest.approx(fractional(pairs, len(images)), abs=1e-6)
        assert 0 < top.conflicting == len({image for pair in pairs for image in pair})
