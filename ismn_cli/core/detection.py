"""How well a detector tells attacked inputs from clean ones, from the scores stored with the answers.

A higher score is more suspicious. A system's own threshold is frozen on clean validation images before any attack;
its test false-positive rate is `ismn_cli.core.rates.false_positive_rate`. The figures here re-set the threshold to
a false-positive rate on the clean test scores themselves: they diagnose the score, and are no operating point that
a deployed detector could have chosen. Systems without a detector, and clean cells, have none of them.
"""

from __future__ import annotations

import math

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.rates import UNDEFINED, Rate
from ismn_cli.core.records import CellResult


def has_detector(result: CellResult) -> bool:
    """Whether the system scores its inputs: it is not known to do without, and not all scores are equal."""
    if result.attacked is None or _policy(result) in ("none", "reform"):
        return False
    return len({*result.clean.score, *result.attacked.score}) > 1


def auroc(result: CellResult) -> float:
    """Return the area under the ROC curve in [0, 1]; NaN without a detector.

    It is the chance that an attacked input scores above a clean one, ties counting half (the Mann-Whitney U over
    the number of pairs). All clean inputs are set against all inputs that the attack did not fail on.
    """
    attacked, clean = _attacked_scores(result), _ordered(result.clean.score)
    if not has_detector(result) or not attacked or not clean:
        return math.nan
    from scipy.stats import rankdata

    ranks = rankdata([*attacked, *clean])[: len(attacked)]
    above = float(ranks.sum()) - len(attacked) * (len(attacked) + 1) / 2
    return above / (len(attacked) * len(clean))


def true_positive_rate(result: CellResult, percent: int) -> Rate:
    """Return the share of attacked inputs flagged at ``percent`` % false positives on the clean test inputs."""
    if not has_detector(result):
        return UNDEFINED
    scores, cut = _attacked_scores(result), _cut(result, percent)
    return Rate(sum(score > cut for score in scores), len(scores))


def success_at(result: CellResult, percent: int) -> Rate:
    """Return SR@N (Bryniarski et al. 2021, arXiv 2106.15023): broken with the detector re-set to N % false positives.

    Of the samples that the system so set answers right without attack, and that the attack did not fail on: those
    answered wrong and not flagged. Defined for rejecting systems only: the stored answers of a routing system were
    routed at its frozen threshold, and would be others at another one.
    """
    if not has_detector(result) or result.attacked is None or _policy(result) != "reject":
        return UNDEFINED
    cut = _cut(result, percent)
    clean, attacked = result.clean, result.attacked
    before = zip(clean.predicted, _ordered(clean.score), result.labels, result.failed, strict=True)
    after = zip(attacked.predicted, _ordered(attacked.score), result.labels, strict=True)
    right = [guess == label and score <= cut and not lost for guess, score, label, lost in before]
    broken = [guess != label and score <= cut for guess, score, label in after]
    return Rate(sum(r and b for r, b in zip(right, broken, strict=True)), sum(right))


def _policy(result: CellResult) -> str:
    """Return what becomes of a flagged input; of a system that is not in the catalogue, as its answers show."""
    entry = SYSTEMS.get(result.cell.defence.name)
    if entry is not None:
        return entry.policy
    seen = (result.clean, result.attacked) if result.attacked else (result.clean,)
    return "reject" if any(any(answers.rejected) for answers in seen) else "route"


def _cut(result: CellResult, percent: int) -> float:
    """Return the lowest score above which at most ``percent`` % of the clean test inputs lie."""
    scores = sorted(_ordered(result.clean.score), reverse=True)
    allowed = percent * len(scores) // 100
    return scores[allowed] if allowed < len(scores) else -math.inf


def _attacked_scores(result: CellResult) -> list[float]:
    if result.attacked is None:
        return []
    pairs = zip(_ordered(result.attacked.score), result.failed, strict=True)
    return [score for score, failed in pairs if not failed]


def _ordered(scores: tuple[float, ...]) -> list[float]:
    """Return the scores; NaN, which no threshold flags, as the lowest of all."""
    return [-math.inf if math.isnan(score) else score for score in scores]
