"""Are the answers what they should be? EV05, GM08, MD03 and MD04, each asked of an exam."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ismn_cli.audit.compare import images, one_answer
from ismn_cli.audit.exam import Exam, TwoLogits
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.paired import ALPHA, paired
from ismn_cli.core.rates import Rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEW = 20
"""Images below which guessing cannot be told from knowing."""
A_CLASS = 5
"""Images of each class that a search for swapped classes needs on average."""


def collapsed(exam: Exam) -> Finding:
    """EV05: nine tenths of the images get one answer, where no class has nearly so many of them; see `one_answer`."""
    predicted = exam.predicted[exam.finite]
    answer, count = _most(predicted)
    share, own = count / len(predicted), _most(exam.y)[1] / len(exam.y)
    figures = {"samples": len(predicted), "answer": answer, "count": count, "largest_class": round(own, 4)}
    if not one_answer(share, own):
        says = f"The most frequent answer is given to {share:.0%} of {images(len(predicted))}."
        return exam.finding("EV05", Verdict.PASS, says, **figures)
    says = (
        f"{count:,} of {images(len(predicted))} get the same answer, class {answer}, whatever they show: an attack has "
        "nothing to change, and a figure for robustness means nothing."
    )
    return exam.finding("EV05", Verdict.FAIL, says, **figures)


def _most(labels: Tensor) -> tuple[int, int]:
    ((value, count),) = Counter(labels.tolist()).most_common(1)
    return value, count


def probabilities(exam: Exam) -> Finding:
    """GM08: all outputs within [0, 1] with sums of 1 to 1e-5 (AutoAttack's check); of one output, within [0, 1]."""
    if exam.constant:
        return exam.not_run("GM08", "every image gets the same answer (see EV05)")
    answers = exam.answers[exam.finite]
    wrapped = isinstance(exam.model, TwoLogits)
    within = bool((answers > -1e-5).all() and (answers < 1 + 1e-5).all())
    sums = float((answers.sum(1) - 1).abs().max())
    probable = exam.model.probability if isinstance(exam.model, TwoLogits) else within and sums < 1e-5
    figures = {"samples": len(answers), "least": round(float(answers.min()), 4), "most": round(float(answers.max()), 4)}
    if not probable:
        says = f"Outputs lie between {figures['least']:,} and {figures['most']:,}: not probabilities."
        return exam.finding("GM08", Verdict.PASS, says, **figures)
    how = "the one output lies between 0 and 1" if wrapped else "the outputs lie between 0 and 1 and sum to 1"
    says = (
        f"On {images(len(answers))} {how}: the model returns probabilities, not logits, on which the losses of attacks "
        "have vanishing gradients."
    )
    return exam.finding("GM08", Verdict.FAIL, says, **figures)


def classes(exam: Exam) -> Finding:
    """MD04: another number of logits than classes, or one logit for two classes."""
    width = exam.shape[1] if len(exam.shape) == 2 else 0
    figures: dict[str, Any] = {"shape": list(exam.shape), "classes": exam.num_classes}
    if isinstance(exam.model, TwoLogits):
        says = "The model has one output for two classes; the other checks see it as two logits, [0, z]."
        return exam.finding("MD04", Verdict.FAIL, says, **figures)
    if width == exam.num_classes and exam.answers.shape[1]:
        return exam.finding("MD04", Verdict.PASS, f"{width} logits for {width} classes.", **figures)
    told = f"{width} outputs an image" if width else f"answers of the shape {list(exam.shape)}"
    says = f"The model gives {told}, where the data set has {exam.num_classes} classes."
    return exam.finding("MD04", Verdict.FAIL, says, **figures)


def mismatch(exam: Exam) -> str:
    """Return why outputs do not stand for the data set's classes; empty where they may."""
    width = exam.answers.shape[1]
    fits = width == exam.num_classes
    return "" if fits else f"{width} outputs do not stand for {exam.num_classes} classes (see MD04)"


def clean_accuracy(exam: Exam) -> Finding:
    """MD03: the Wilson interval of clean accuracy leaves out what the user expects, or is not above guessing."""
    if reason := mismatch(exam):
        return exam.not_run("MD03", reason)
    rate = Rate(int(exam.right.sum()), len(exam.y))
    low, high = rate.interval()
    figures: dict[str, Any] = {
        "right": rate.hits,
        "samples": rate.total,
        "low": round(low, 4),
        "high": round(high, 4),
        "expected": exam.expected,
    }
    says = f"{rate.value:.1%} of {images(rate.total)} are answered right (95 % interval {low:.1%} to {high:.1%})"
    swapped = _swapped(exam)
    verdict, why = _plausible(exam, rate)
    if swapped:
        verdict, why = Verdict.FAIL, f"{why}{swapped}"
    return exam.finding("MD03", verdict, f"{says}{why}.", **figures)


def guessing(exam: Exam) -> float:
    """Return the share that the best constant answer gets right, or a fair draw among the classes."""
    return max(1 / exam.num_classes, _most(exam.y)[1] / len(exam.y))


def _plausible(exam: Exam, rate: Rate) -> tuple[Verdict, str]:
    low, high = rate.interval()
    guess = guessing(exam)
    if low <= guess:
        if rate.total < FEW:
            return Verdict.NOT_RUN, ", too few images to tell that from guessing"
        return Verdict.FAIL, f", which is not above guessing, {guess:.1%}"
    if exam.expected is None:
        return Verdict.PASS, "; what it should be is not known"
    wanted = f"{exam.expected:.1%}"
    if low <= exam.expected <= high:
        return Verdict.PASS, f", as expected ({wanted})"
    if exam.expected > high:
        return Verdict.FAIL, f", significantly less than the {wanted} expected"
    return Verdict.WARN, f", significantly more than the {wanted} expected: look whether it was trained on these images"


def _swapped(exam: Exam) -> str:
    """Return what to say where another order of the classes would be right significantly more often."""
    if len(exam.y) < A_CLASS * exam.num_classes:
        return ""
    answer_of = _best_order(exam)
    renamed = answer_of[exam.y.cpu()].to(exam.y.device) == exam.predicted
    found = paired(renamed.tolist(), exam.right.tolist())
    if found.difference < 0.05 or found.p_value() > ALPHA / exam.num_classes or 2 * int(renamed.sum()) < len(exam.y):
        return ""
    moved = [f"{label} answered as {answer}" for label, answer in enumerate(answer_of.tolist()) if label != answer]
    more = ", …" if len(moved) > 3 else ""
    return (
        f"; with the classes in another order it would be {float(renamed.float().mean()):.1%} "
        f"({', '.join(moved[:3])}{more})"
    )


def _best_order(exam: Exam) -> Tensor:
    """Return for each class the answer that stands for it, one to one, so that most images are right."""
    from scipy.optimize import linear_sum_assignment

    k = exam.num_classes
    seen = exam.finite
    table = torch.zeros(k, k, dtype=torch.int64)
    pairs = (exam.y[seen].cpu(), exam.predicted[seen].cpu())
    table.index_put_(pairs, torch.ones(1, dtype=torch.int64), accumulate=True)
    counts: NDArray[np.int64] = table.numpy()
    return torch.from_numpy(linear_sum_assignment(counts, maximize=True)[1])
