"""Is the loss around an image one that an attack can climb? GM11 and GM12, each asked of an exam."""

from __future__ import annotations

import torch
from torch import Tensor

from ismn_cli.attacks.objectives import margin
from ismn_cli.audit.compare import Missed, images
from ismn_cli.audit.exam import Exam, Loss, cross_entropy
from ismn_cli.audit.gradient_checks import lead
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.paired import ALPHA
from ismn_cli.engine.rng import isolated

NEIGHBOURS, RADIUS = 100, 4 / 255
"""Random points around an image, uniform within that many pixels of it (Pintor et al. 2022, I2)."""
AROUND = 10
"""Images whose surroundings are looked at."""
UNSTABLE, RESTLESS = 0.5, 0.3
"""Median relative change that fails, and that warns.

Five CIFAR-10 ResNets, undefended and adversarially trained, have 0.02 to 0.20 of it.
"""
CLIMBED = 32
"""Images that are attacked for a few steps."""
STEPS, STEP, EPS = 4, 4 / 255, 8 / 255
TOLERATED = 0.01
LARGE = 20.0
"""A lead in logits from which the confidence of float32 is 1 to about the last digits."""


def unstable(exam: Exam) -> Finding:
    """GM11: the relative change of the margin at random points near an image (I2), its median over images.

    A single image on the boundary, whose margin is near 0, would make their mean meaningless. What the model draws
    at random is held still.
    """
    if exam.constant:
        return exam.not_run("GM11", "every image gets the same answer (see EV05)")
    index = exam.some(AROUND)
    change = _changes(exam, index).clamp(max=1)
    median = float(change.median())
    figures = {"samples": len(index), "points": NEIGHBOURS, "median_change": round(median, 4)}
    verdict = Verdict.FAIL if median > UNSTABLE else Verdict.WARN if median > RESTLESS else Verdict.PASS
    says = (
        f"At random points within 4/255 of an image the margin between the logits differs by {median:.0%} (median of "
        f"{images(len(index))}, {NEIGHBOURS} points each)"
    )
    told = "." if verdict is Verdict.PASS else ": a gradient at the image says little about what lies beside it."
    return exam.finding("GM11", verdict, says + told, **figures)


def _changes(exam: Exam, index: Tensor) -> Tensor:
    x, labels = exam.x[index], exam.predicted[index]
    with isolated(exam.seed):
        seeds = torch.randint(2**31, (NEIGHBOURS,)).tolist()
    there = margin(exam.forward(x), labels)
    total = torch.zeros_like(there)
    for seed in seeds:
        with isolated(seed):
            moved = x + RADIUS * (2 * torch.rand(x.shape) - 1).to(x)
        total += (margin(exam.forward(moved), labels) - there).abs()
    return (total / NEIGHBOURS / there.abs().clamp_min(1e-12)).nan_to_num(1.0)


def logit_scale(exam: Exam) -> Finding:
    """GM12: a few steps up cross-entropy, up cross-entropy of scaled logits, and up the margin, from the same images.

    The scale takes the lead of the answered class to 1. Where only the first loss fails and that lead is large, the
    logits have saturated it (Carlini and Wagner 2016); where it is small, the loss is merely not the best.
    """
    if exam.constant or not bool(exam.slopes.logits.any()):
        return exam.not_run("GM12", "there is no gradient to follow (see GM10)")
    index, scale = exam.some(CLIMBED), max(float(lead(exam).median()), 1e-3)
    losses: dict[str, Loss] = {
        "cross-entropy": cross_entropy,
        "cross-entropy of scaled logits": lambda logits, labels: cross_entropy(logits / scale, labels),
        "the margin": margin,
    }
    broken = {name: _climbed(exam, index, loss) for name, loss in losses.items()}
    best = max(broken, key=lambda name: int(broken[name].sum()))
    plain, other = broken["cross-entropy"], broken[best]
    found = Missed(best, int((other & ~plain).sum()), int((plain & ~other).sum()), len(index))
    counts = {name: int(flags.sum()) for name, flags in broken.items()}
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    says = f"Of {images(len(index))}, {STEPS} steps at 8/255 break by each loss: {told}."
    figures = {"samples": len(index), "median_lead": round(scale, 3), **counts}
    if not _weaker(found):
        return exam.finding("GM12", Verdict.PASS, says, **figures)
    if scale <= LARGE:
        return exam.finding("GM12", Verdict.WARN, f"{says} Attack this model by {best} as well.", **figures)
    says += f" The logits are too large for cross-entropy: the answered class leads by {scale:,.1f} (median)."
    return exam.finding("GM12", Verdict.FAIL, says, **figures)


def _weaker(found: Missed) -> bool:
    """Return whether cross-entropy misses significantly more than is tolerated."""
    return found.share_above(TOLERATED) and found.p_value() <= ALPHA


def _climbed(exam: Exam, index: Tensor, loss: Loss) -> Tensor:
    """Return bool [n]: a few steps of the gradient's sign change the answer."""
    x, labels = exam.x[index], exam.predicted[index]
    there = x.clone()
    for _ in range(STEPS):
        (gradient,) = exam.gradients(there, labels, (loss,))
        there = there + STEP * gradient.nan_to_num().sign()
        there = there.clamp(x - EPS, x + EPS).clamp(0, 1)
    return exam.forward(there).argmax(1) != labels
