"""What a page shows of one cell beyond its row of the table: small arrays, so that many cells fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ismn_cli.core.detection import risk_coverage, roc
from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Cell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_CLASSES = 1000
"""Labels beyond are no classes of images that anybody counts; a record may hold any number."""
MOST_CONFUSED = 20
"""Classes of a confusion matrix that can still be read."""
POINTS = 128
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class CellFigures:
    """One cell, reduced."""

    cell: Cell
    right: tuple[int, ...]
    """[K] images of each class that are answered right, under attack if there is one; a refusal is no answer."""
    total: tuple[int, ...]
    """[K] images of each class."""
    confusion: Array | None
    """[K, K + 2] images by class and answer; the last columns count refusals and failed attacks. None: many classes."""
    linf: tuple[float, ...]
    """`QUANTILES` of the distances of the images attacked, pixels in [0, 1]; none for a clean cell."""
    l2: tuple[float, ...]
    loops_clean: tuple[int, ...]
    """Images by how often they were regenerated: 0, 1, 2 ... times."""
    loops: tuple[int, ...]
    roc: Array | None
    """[P, 2], see `ismn_cli.core.detection.roc`; at most `POINTS` of them."""
    risk: Array | None
    """[P, 2], see `ismn_cli.core.detection.risk_coverage`."""


class Reduced:
    """Passes results on one at a time and keeps their figures in ``cells``, by the key of the cell."""

    def __init__(self, results: Iterable[CellResult]) -> None:
        self._results = results
        self.cells: dict[str, CellFigures] = {}

    def __iter__(self) -> Iterator[CellResult]:
        for result in self._results:
            key = result.cell.key()
            if key not in self.cells:
                self.cells[key] = cell_figures(result)
            yield result


def cell_figures(result: CellResult) -> CellFigures:
    """Return what a page shows of ``result``."""
    classes = _classes(result)
    right, total = _by_class(result, classes)
    attacked = result.attacked
    return CellFigures(
        cell=result.cell,
        right=right,
        total=total,
        confusion=_confusion(result, classes) if 0 < classes <= MOST_CONFUSED else None,
        linf=_quantiles(result.linf, result.failed),
        l2=_quantiles(result.l2, result.failed),
        loops_clean=_counts(result.clean.loops),
        loops=_counts(attacked.loops) if attacked else (),
        roc=_thinned(roc(result)),
        risk=_thinned(risk_coverage(result)),
    )


def _classes(result: CellResult) -> int:
    """Return how many classes the labels and answers name; 0 where they are no numbers of classes."""
    answers = [result.clean, *([result.attacked] if result.attacked else [])]
    columns = [column for column in (result.labels, *(a.predicted for a in answers)) if column]
    least = min(map(min, columns), default=-1)
    most = max(map(max, columns), default=-1)
    return most + 1 if least >= 0 and most < MOST_CLASSES else 0


def _by_class(result: CellResult, classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not classes:
        return (), ()
    import numpy as np

    labels = np.array(result.labels)
    right = np.bincount(labels[np.array(answered_right(result), dtype=bool)], minlength=classes)
    return tuple(right.tolist()), tuple(np.bincount(labels, minlength=classes).tolist())


def _confusion(result: CellResult, classes: int) -> Array:
    import numpy as np

    answers = result.attacked or result.clean
    given = np.where(answers.rejected, classes, answers.predicted)
    if result.attacked is not None:
        given = np.where(result.failed, classes + 1, given)
    found = np.zeros((classes, classes + 2), dtype=np.int64)
    np.add.at(found, (np.array(result.labels), given), 1)
    return found


def _quantiles(distances: Sequence[float], failed: Sequence[bool]) -> tuple[float, ...]:
    """Where the attack failed the image was left as it was: such images are left out, as in the table."""
    import numpy as np

    found = np.array(distances, dtype=float)
    found = found[~np.array(failed, dtype=bool)] if len(failed) == len(found) else found
    found = found[np.isfinite(found)]
    return tuple(np.percentile(found, QUANTILES).tolist()) if len(found) else ()


def _counts(loops: Sequence[int]) -> tuple[int, ...]:
    if not loops or min(loops) < 0 or max(loops) > MOST_CLASSES:
        return ()
    import numpy as np

    return tuple(np.bincount(np.array(loops)).tolist())


def _thinned(points: Array | None) -> Array | None:
    """Return at most `POINTS` of the points, evenly along the curve, both ends among them."""
    if points is None or len(points) <= POINTS:
        return points
    import numpy as np

    along = np.concatenate([[0.0], np.abs(np.diff(points, axis=0)).sum(axis=1).cumsum()])
    wanted = np.linspace(0, along[-1], POINTS)
    kept: Array = points[np.unique(np.searchsorted(along, wanted - 1e-12).clip(0, len(points) - 1))]
    return kept
