"""How well a detector tells attacked inputs from clean ones, from the scores stored with the answers.

A higher score is more suspicious. A system's own threshold is frozen on clean validation images before any attack;
its test false-positive rate is `ismn_cli.core.rates.false_positive_rate`. The figures here re-set the threshold to
a false-positive rate on the clean test scores themselves: they diagnose the score, and are no operating point that
a deployed detector could have chosen. Systems without a detector, and clean cells, have none of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ismn_cli.core.arrays import columns
from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.rates import UNDEFINED, Rate
from ismn_cli.core.records import CellResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ismn_cli.core.arrays import Array

    Points = NDArray[Any]
    """[P, 2], shares in [0, 1]."""


def has_detector(result: CellResult) -> bool:
    """Whether the system scores its inputs: it is not known to do without, and not all scores are equal."""
    found = columns(result)
    if found.attacked is None or _policy(result) in ("none", "reform"):
        return False
    first = found.clean.score[:1]
    return any(bool((replies.score != first).any()) for replies in (found.clean, found.attacked))


def auroc(result: CellResult) -> float:
    """Return the area under the ROC curve in [0, 1]; NaN without a detector.

    It is the chance that an attacked input scores above a clean one, ties counting half (the Mann-Whitney U over
    the number of pairs). All clean inputs are set against all inputs that the attack did not fail on.
    """
    attacked, clean = _attacked_scores(result), columns(result).clean.ascending
    if not has_detector(result) or not len(attacked) or not len(clean):
        return math.nan
    import numpy as np

    below, not_above = (np.searchsorted(clean, attacked, side).sum() for side in ("left", "right"))
    return float(below + not_above) / (2 * len(attacked) * len(clean))


def true_positive_rate(result: CellResult, percent: int) -> Rate:
    """Return the share of attacked inputs flagged at ``percent`` % false positives on the clean test inputs."""
    if not has_detector(result):
        return UNDEFINED
    scores, cut = _attacked_scores(result), _cut(result, percent)
    return Rate(int((scores > cut).sum()), len(scores))


def success_at(result: CellResult, percent: int) -> Rate:
    """Return SR@N (Bryniarski et al. 2021, arXiv 2106.15023): broken with the detector re-set to N % false positives.

    Of the samples that the system so set answers right without attack, and that the attack did not fail on: those
    answered wrong and not flagged. Defined for rejecting systems only: the stored answers of a routing system were
    routed at its frozen threshold, and would be others at another one.
    """
    found, cut = columns(result), _cut(result, percent)
    if not has_detector(result) or found.attacked is None or _policy(result) != "reject":
        return UNDEFINED
    right = found.clean.correct & (found.clean.score <= cut) & ~found.failed
    broken = ~found.attacked.correct & (found.attacked.score <= cut)
    return Rate(int((right & broken).sum()), int(right.sum()))


def roc(result: CellResult) -> Points | None:
    """Return (false positives, true positives) from no input flagged to all, each threshold once; None without any.

    The inputs are those of `auroc`, and so is the area under the points joined by straight lines.
    """
    import numpy as np

    clean, attacked = columns(result).clean.ascending, np.sort(_attacked_scores(result))
    if not has_detector(result) or not len(attacked) or not len(clean):
        return None
    cuts = np.unique(np.concatenate([clean, attacked]))[::-1]
    above = [1 - np.searchsorted(scores, cuts, side="left") / len(scores) for scores in (clean, attacked)]
    return np.vstack([[0, 0], np.stack(above, axis=1)])


def risk_coverage(result: CellResult) -> Points | None:
    """Return (coverage, selective risk) under attack at every threshold, coverage ascending; None without any.

    Coverage is the share of attacked images that are answered, risk the share of those that is answered wrong
    (El-Yaniv and Wiener 2010, JMLR 11, 1605-1641). An image on which the attack failed counts as answered wrong at
    every threshold. Defined for rejecting systems only, as `success_at`.
    """
    found = columns(result)
    if found.attacked is None or not has_detector(result) or _policy(result) != "reject":
        return None
    import numpy as np

    scores = np.where(found.failed, -math.inf, found.attacked.score)
    wrong = found.failed | ~found.attacked.correct
    order = np.argsort(scores, kind="stable")
    last = np.append(scores[order][1:] > scores[order][:-1], True)  # equal scores are answered together
    answered = np.arange(1, len(scores) + 1)
    points = np.stack([answered / len(scores), np.cumsum(wrong[order]) / answered], axis=1)
    kept: Points = points[last]
    return kept


def _policy(result: CellResult) -> str:
    """Return what becomes of a flagged input; of a system that is not in the catalogue, as its answers show."""
    entry = SYSTEMS.get(result.cell.defence.name)
    if entry is not None:
        return entry.policy
    seen = (result.clean, result.attacked) if result.attacked else (result.clean,)
    return "reject" if any(any(answers.rejected) for answers in seen) else "route"


def _cut(result: CellResult, percent: int) -> float:
    """Return the lowest score above which at most ``percent`` % of the clean test inputs lie."""
    scores = columns(result).clean.ascending[::-1]
    allowed = percent * len(scores) // 100
    return float(scores[allowed]) if allowed < len(scores) else -math.inf


def _attacked_scores(result: CellResult) -> Array:
    """Return the scores of the inputs that the attack did not fail on; NaN as the lowest of all."""
    found = columns(result)
    scores: Array = found.failed[:0] if found.attacked is None else found.attacked.score[~found.failed]
    return scores
