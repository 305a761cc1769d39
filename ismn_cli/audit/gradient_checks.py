"""Has every image a gradient that an attack can follow? GM03, GM10, MD06 and MD08, each asked of an exam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ismn_cli.attacks.objectives import margin
from ismn_cli.audit.compare import images
from ismn_cli.audit.exam import Exam, cross_entropy
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.engine.rng import isolated

PRECISE = 16
"""Images without a gradient that are looked at again in double precision."""
STEPPED = 16
"""Images whose answers are watched while pixels move by far less than a grey level."""
GREY = 1 / 255
FINE, COARSE = 1e-3, 1e-2
"""How far pixels move, in grey levels: in double precision, and in float32, which shows less."""


def zero_gradient(exam: Exam) -> Finding:
    """GM03: no gradient of cross-entropy or of the margin on images answered right (AutoAttack's check).

    An exact zero in float32 is either cut off, zero in double precision too, or saturated: there it has one.
    """
    if exam.constant:
        return exam.not_run("GM03", "every image gets the same answer (see EV05), so there is nothing to follow")
    slopes = exam.slopes
    usable = exam.right[slopes.index] if bool(exam.right[slopes.index].any()) else slopes.index >= 0
    loss_zero = (slopes.cross_entropy == 0) & usable
    margin_zero = (slopes.margin == 0) & usable
    cut = _cut_off(exam, slopes.index[margin_zero if bool(margin_zero.any()) else loss_zero][:PRECISE])
    figures: dict[str, Any] = {
        "samples": int(usable.sum()),
        "cross_entropy_zero": int(loss_zero.sum()),
        "margin_zero": int(margin_zero.sum()),
        "zero_in_double_precision": cut,
        "median_lead": round(float(lead(exam).median()), 3),
    }
    zero = int((loss_zero | margin_zero).sum())
    of = f"{images(int(usable.sum()))} looked at"
    if not zero:
        return exam.finding("GM03", Verdict.PASS, f"The loss has a gradient on each of the {of}.", **figures)
    why = _why(bool(margin_zero.any()), cut, figures["median_lead"])
    return exam.finding("GM03", Verdict.FAIL, f"The loss has no gradient on {zero:,} of the {of}{why}.", **figures)


def _why(margin_zero: bool, cut: bool | None, median_lead: float) -> str:
    if margin_zero and cut is not False:
        return ", nor has the margin between the logits: an attack that follows gradients stands still there"
    if margin_zero:
        return ", but only because float32 rounds it away inside the model: double precision has one"
    return (
        ", but only because float32 rounds it away: the margin between the logits has one. The answered class leads "
        f"the next by {median_lead:,} in logits (median), and the confidence is 1 to the last digit"
    )


def lead(exam: Exam) -> Tensor:
    """Return how far the answered class's logit stands above the next, [n], for images with finite logits."""
    return -margin(exam.answers[exam.finite], exam.predicted[exam.finite])


def _cut_off(exam: Exam, index: Tensor) -> bool | None:
    """Return whether cross-entropy has no gradient in double precision either; None where that is not known."""
    if not len(index) or exam.draws or exam.double is None:
        return None
    try:
        (found,) = exam.double.gradients(exam.double.x[index], exam.predicted[index], (cross_entropy,))
    except RuntimeError:  # a part that knows float32 only
        return None
    return not bool(found.any())


def unavailable_gradient(exam: Exam) -> Finding:
    """GM10: the path from the logits back to the pixels is interrupted, or its gradient exactly zero (I1)."""
    if exam.constant:
        return exam.not_run("GM10", "every image gets the same answer (see EV05), so there is no path to speak of")
    zero, total = int((exam.slopes.logits == 0).sum()), len(exam.slopes.index)
    if not zero:
        says = f"A path leads from the logits back to the pixels on {_all(total)}."
        return exam.finding("GM10", Verdict.PASS, says, samples=total, zero=0)
    says = (
        f"On {zero:,} of {images(total)} no gradient comes back from the logits to the pixels: a step on the way is "
        "not differentiable (rounding, a comparison, detach, a conversion to numpy), or is flat."
    )
    return exam.finding("GM10", Verdict.FAIL, says, samples=total, zero=zero)


def finite(exam: Exam) -> Finding:
    """MD06: NaN or infinity in logits or gradients."""
    bad = int((~exam.finite).sum())
    known = bool(exam.finite.any())
    slopes = (exam.slopes.cross_entropy, exam.slopes.margin, exam.slopes.logits) if known else ()
    wild = int((~torch.stack(slopes).isfinite().all(0)).sum()) if slopes else 0
    figures = {"samples": len(exam.x), "logits": bad, "gradients": wild}
    if not bad + wild:
        says = f"Logits are finite numbers on {_all(len(exam.x))}, and so are gradients where they were taken."
        return exam.finding("MD06", Verdict.PASS, says, **figures)
    told = [f"logits on {bad:,} of {images(len(exam.x))}"] if bad else []
    told += [f"gradients on {wild:,} of {images(len(exam.slopes.index))}"] if wild else []
    says = f"NaN or infinity in {' and '.join(told)}: what an attack does there means nothing."
    return exam.finding("MD06", Verdict.FAIL, says, **figures)


def finite_logits(exam: Exam) -> Finding:
    """MD06, of the logits alone: no gradient is taken."""
    bad = int((~exam.finite).sum())
    figures = {"samples": len(exam.x), "logits": bad}
    if not bad:
        return exam.finding("MD06", Verdict.PASS, f"Logits are finite numbers on {_all(len(exam.x))}.", **figures)
    says = f"NaN or infinity in logits on {bad:,} of {images(len(exam.x))}: what an attack does there means nothing."
    return exam.finding("MD06", Verdict.FAIL, says, **figures)


def rounding(exam: Exam) -> Finding:
    """MD08: pixels that move by far less than a grey level never move a logit.

    Asked in double precision, where a smooth model always shows it, and away from whole grey levels, where a
    rounding one would jump.
    """
    if exam.constant:
        return exam.not_run("MD08", "every image gets the same answer (see EV05), whatever its pixels")
    index = exam.some(STEPPED)
    still = _unmoved(exam.double, index, FINE) if exam.double else _unmoved(exam, index, COARSE)
    share = float(still.float().mean())
    figures = {"samples": len(index), "unmoved": int(still.sum())}
    if share < 0.5:
        says = f"Logits follow changes of a small part of a grey level: {int((~still).sum())} of {images(len(index))}."
        return exam.finding("MD08", Verdict.PASS, says, **figures)
    passed = bool((exam.slopes.logits > 0).all())
    says = (
        f"Changes of a small part of a grey level leave every logit of {int(still.sum())} of {images(len(index))} "
        "as it was: the pixels are rounded on the way in"
        + (", and gradients are passed around that step." if passed else ", which leaves no gradient to follow.")
    )
    return exam.finding("MD08", Verdict.WARN if passed else Verdict.FAIL, says, **figures)


def _unmoved(exam: Exam, index: Tensor, size: float) -> Tensor:
    """Return bool [n]: no logit moves when each pixel does by up to ``size`` grey levels."""
    x = exam.x[index]
    with isolated(exam.seed):
        offset = 0.1 + 0.3 * torch.rand(1).item()
        move = (2 * torch.rand(x.shape) - 1).to(x)
    # White pixels have nowhere to go but down.
    start = x + offset * GREY * torch.where(x >= 1, -1.0, 1.0).to(x)
    before, after = exam.forward(start), exam.forward(start + size * GREY * move)
    return (before == after).all(1)


def _all(count: int) -> str:
    return f"all {images(count)}" if count > 1 else "the one image"
