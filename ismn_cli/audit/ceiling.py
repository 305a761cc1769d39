"""The provable ceiling on robust accuracy, from the images alone (Bhagoji, Cullina and Mittal 2019, arXiv 1909.12272).

Two images conflict that have different classes and lie within 2 eps of each other: both can be moved to the point
half-way, where one answer cannot be right for both. With x_i = 1 where image i is answered right under every
perturbation, each conflict says x_i + x_j <= 1. The most that the x_i can add up to, fractions allowed, is the number
of images less the largest fractional matching of the conflicts, which is half the largest matching of the bipartite
double cover (linear programming duality; Koenig 1931). It bounds every deterministic classifier that always answers,
and the expectation of one that draws at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Norm

FIRST = 64
"""Pixels looked at first; most pairs are further apart in them already. Each next look takes twice as many."""
LOOKS = 3
"""With so few of an image's pixels copied, sets of any size are compared where they lie: in a file, if need be."""
AT_ONCE = 2**22
"""Pixels of other images that are compared with those of one."""
ROUNDING = 1e-12
"""Relative: 2 x 0.3 x 255 is 153 grey levels, whatever float64 makes of 0.3."""
REPORTS = 200
"""Of progress, at most."""

OnPairs = Callable[[int, int], None]
"""(pairs of images compared, all pairs)"""
Ints = npt.NDArray[np.integer[Any]]
Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Possible:
    """What images allow at one size: ``conflicting`` of them have a conflict, ``possible`` can at most be right."""

    eps: float
    conflicting: int
    possible: float
    """A whole number or a half."""


def ceilings(
    images: Pixels, labels: Ints, norm: Norm, eps_list: Sequence[float], on_progress: OnPairs | None = None
) -> list[Possible]:
    """Return the ceiling at each of ``eps_list`` (pixels of [0, 1]), in that order.

    ``images`` [N, ...] are uint8, or floats in [0, 1]; floats that hold whole grey levels are compared as such, and
    exactly. ``labels`` [N] are whole numbers. Bytes are not copied; besides half a kilobyte for each image, memory
    grows with the conflicts at the largest size: 1.2 GB where nearly all pairs among 10,000 images conflict. Raises
    UsageError for images, labels or sizes that are none.
    """
    _check(images, labels, eps_list)
    pixels = _pixels(images).reshape(len(images), -1)
    limits = {eps: _limit(eps, norm, pixels) for eps in sorted(set(eps_list))}
    near = {eps: limit for eps, limit in limits.items() if limit < _diameter(norm, pixels)}
    at = {eps: _everywhere(eps, labels) for eps in limits if eps not in near}
    if near:
        found = _conflicts(pixels, labels, norm, list(near.values()), on_progress or _silent)
        at |= {eps: _possible(eps, *found.within(rank)) for rank, eps in enumerate(near)}
    return [at[eps] for eps in eps_list]


@dataclass(frozen=True)
class _Conflicts:
    """Pairs of images of different class, each once: image i and ``others`` from starts[i] to starts[i + 1]."""

    starts: npt.NDArray[np.int64]
    others: npt.NDArray[np.int32]
    ranks: Ints
    """The smallest size at which a pair conflicts, by its position among the sizes."""

    def within(self, rank: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return starts and others of the conflicts at one size."""
        kept = self.ranks <= rank
        counts = [int(np.count_nonzero(kept[start:end])) for start, end in pairwise(self.starts)]
        return np.cumsum([0, *counts], dtype=np.int64), self.others[kept]


def _conflicts(
    pixels: Pixels, labels: Ints, norm: Norm, limits: Sequence[float], on_progress: OnPairs
) -> _Conflicts:
    """Return the conflicts of images [N, D], which are numbered in the order of their labels; ``limits`` ascend."""
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order], side="right")
    ends = np.concatenate(([0], np.cumsum(len(labels) - firsts)))
    images, others, ranks, told = _Images(pixels, order, norm), [], [], 0
    for i, first in enumerate(firsts):
        found, distances = images.near(i, int(first), limits[-1])
        others.append(found)
        ranks.append(np.searchsorted(limits, distances).astype(np.min_scalar_type(len(limits))))
        done, total = int(ends[i + 1]), int(ends[-1])
        if done - told > total // REPORTS or told < done == total:
            told = done
            on_progress(done, total)
    starts = np.cumsum([0, *map(len, others)], dtype=np.int64)
    return _Conflicts(starts, np.concatenate(others), np.concatenate(ranks))


class _Images:
    """Images [N, D], the i-th of which is row ``order[i]`` of ``pixels``."""

    def __init__(self, pixels: Pixels, order: Ints, norm: Norm) -> None:
        self.pixels, self.order, self.norm = pixels, order, norm
        size = pixels.shape[1]
        # Shuffled because neighbours are alike.
        places = np.random.default_rng(0).permutation(size)
        bounds = [0, *(min(((1 << k) - 1) * FIRST, size) for k in range(1, LOOKS + 1))]
        self.looks = [pixels[order[:, None], places[start:end]] for start, end in pairwise(bounds) if start < size]

    def near(self, i: int, first: int, limit: float) -> tuple[npt.NDArray[np.int32], Pixels]:
        """Return the images from ``first`` on within ``limit`` of image i, and their distances (squared in L2)."""
        others = np.arange(first, len(self.order), dtype=np.int32)
        distances = self._none(len(others))
        for look in self.looks:
            # The first look is at all of them: no need to pick.
            there = look[first:] if look is self.looks[0] else look[others]
            distances = _further(distances, look[i], there, self.norm)
            kept = distances <= limit
            others, distances = others[kept], distances[kept]
            if not len(others):
                return others, distances
        return self._exactly(i, others, limit)

    def _exactly(self, i: int, others: npt.NDArray[np.int32], limit: float) -> tuple[npt.NDArray[np.int32], Pixels]:
        """Return those of ``others`` within ``limit`` in all their pixels, and their distances."""
        here, size = self.order[i], self.pixels.shape[1]
        distances, start = self._none(len(others)), 0
        while start < size and len(others):
            part = slice(start, start + max(FIRST, AT_ONCE // len(others)))
            distances = _further(distances, self.pixels[here, part], self.pixels[self.order[others], part], self.norm)
            kept, start = distances <= limit, part.stop
            others, distances = others[kept], distances[kept]
        return others, distances

    def _none(self, n: int) -> Pixels:
        return np.zeros(n, self.pixels.dtype if self.norm is Norm.LINF else np.float64)


def _further(distances: Pixels, one: Pixels, others: Pixels, norm: Norm) -> Pixels:
    """Return the distances [n] when more pixels [d] and [n, d] are known; squares of grey levels stay whole."""
    gaps = np.maximum(one, others) - np.minimum(one, others)
    if norm is Norm.LINF:
        largest: Pixels = np.maximum(distances, gaps.max(1))
        return largest
    wide = gaps.astype(np.float64, copy=False)
    squares: Pixels = np.einsum("ij,ij->i", wide, wide)
    return distances + squares


def _possible(eps: float, starts: Ints, others: Ints) -> Possible:
    """Return the ceiling that these conflicts leave."""
    n = len(starts) - 1
    once = csr_matrix((np.ones(len(others), np.int8), others, starts), shape=(n, n))
    both = (once + once.T).tocsr()
    matched = int((maximum_bipartite_matching(both, perm_type="column") >= 0).sum())
    return Possible(eps, int((np.diff(both.indptr) > 0).sum()), n - matched / 2)


def _everywhere(eps: float, labels: Ints) -> Possible:
    """Return the ceiling where all images of different class conflict: half of them, or the largest class."""
    n, largest = len(labels), int(np.unique(labels, return_counts=True)[1].max())
    return Possible(eps, n if largest < n else 0, max(n / 2, largest))


def _pixels(images: Pixels) -> Pixels:
    """Return images as uint8 where they hold whole grey levels, else as float64."""
    if images.dtype == np.uint8:
        return images
    wide = images.astype(np.float64)
    levels = np.rint(255 * wide)
    # What k / 255 is in this type of float, to the last bit or two; half precision cannot tell grey levels apart.
    whole = np.abs(255 * wide - levels) <= 2 * 255 * np.finfo(images.dtype).eps
    return levels.astype(np.uint8) if images.dtype.itemsize > 2 and whole.all() else wide


def _limit(eps: float, norm: Norm, pixels: Pixels) -> float:
    """Return the largest distance (squared in L2) that is a conflict, in the unit of ``pixels``."""
    depth = _depth(pixels)
    limit = 2 * eps * depth * (1 + ROUNDING)
    limit = limit if norm is Norm.LINF else limit**2
    return float(math.floor(limit)) if depth > 1 else limit


def _depth(pixels: Pixels) -> int:
    return 255 if pixels.dtype == np.uint8 else 1


def _diameter(norm: Norm, pixels: Pixels) -> float:
    """Return the largest distance (squared in L2) that there can be."""
    return float(_depth(pixels) if norm is Norm.LINF else _depth(pixels) ** 2 * pixels.shape[1])


def _check(images: Pixels, labels: Ints, eps_list: Sequence[float]) -> None:
    hint = "Give images [N, ...] as uint8 or as floats in [0, 1], and N whole numbers as labels."
    if not len(images) or labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"There are {len(images)} images and labels {labels.dtype} {list(labels.shape)}.", hint)
    floats = np.issubdtype(images.dtype, np.floating)
    # Written so that NaN fails it too.
    if images.dtype != np.uint8 and not (floats and bool(((images >= 0) & (images <= 1)).all())):
        raise UsageError(f"Images are {images.dtype}, with pixels outside [0, 1] or not finite.", hint)
    if not all(math.isfinite(eps) and eps >= 0 for eps in eps_list):
        raise UsageError("Sizes are finite and not negative.", "Write eps such as 0.3 or 8/255.")


def _silent(done: int, total: int) -> None:
    """Nobody looks."""
