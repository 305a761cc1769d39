"""Rules of what a defence answers: CD02 to CD05, CD07, CD10, CD11 and CD13."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ismn_cli.engine.groups import filled
from ismn_cli.engine.rng import isolated
from ismn_cli.testing.defence_case import FICKLE, SEEDS, DefenceCase
from ismn_cli.testing.verdicts import Said, either, fine, unasked, wrong
from ismn_models.pipeline import Decision, Waypoint


def reform(case: DefenceCase) -> Said:
    """CD02: images of the same shape and type, finite, in [0, 1]."""
    with isolated(case.seed), torch.no_grad():
        found = case.defence.reform(case.x.clone())
        one = case.defence.reform(case.x[:1].clone())
    problems = _image_problems("reform", found, case.x) or _image_problems("reform, of one image,", one, case.x[:1])
    return either(problems, f"{len(case.x)} images become images of the same shape in [0, 1].")


def _image_problems(what: str, found: object, x: Tensor) -> list[str]:
    if not isinstance(found, Tensor):
        return [f"{what} gives a {type(found).__name__}, not a tensor"]
    problems = []
    if found.shape != x.shape:
        problems.append(f"{what} gives {list(found.shape)} for images {list(x.shape)}")
    if found.dtype != x.dtype:
        problems.append(f"{what} gives {_kind(found)} for {_kind(x)} images")
    if not found.isfinite().all():
        return [*problems, f"{what} gives NaN or infinity"]
    if found.numel() and (found.min() < -1e-6 or found.max() > 1 + 1e-6):
        problems.append(f"{what} gives pixels between {float(found.min()):.3g} and {float(found.max()):.3g}")
    return problems


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def score(case: DefenceCase) -> Said:
    """CD03: a finite number for each image."""
    with isolated(case.seed), torch.no_grad():
        found = case.defence.score(case.x.clone(), case.system.classifier)
    return either(_column_problems("score", found, len(case.x), None), f"{len(case.x)} images get a score each.")


def _column_problems(name: str, found: object, n: int, kind: torch.dtype | None) -> list[str]:
    """Return what is wrong with a column [n] of this ``kind``, of finite floats unless given."""
    if not isinstance(found, Tensor):
        return [f"{name} is a {type(found).__name__}, not a tensor"]
    problems = [] if found.shape == (n,) else [f"{name} has the shape {list(found.shape)} for {n} images, not [{n}]"]
    if kind is not None and found.dtype is not kind:
        problems.append(f"{name} is {_kind(found)}, not {str(kind).removeprefix('torch.')}")
    if kind is None and not found.is_floating_point():
        problems.append(f"{name} is {_kind(found)}, not float")
    elif not found.isfinite().all():
        problems.append(f"{name} has NaN or infinity in it")
    return problems


def decide(case: DefenceCase) -> Said:
    """CD04: a Decision whose columns have an entry for each image."""
    for x in (case.x, case.x[:1]):
        found = case.decided(x)
        if not isinstance(found, Decision):
            return wrong(f"It gives a {type(found).__name__}, not a Decision.")
        if problems := list(_decision_problems(found, len(x))):
            return either(problems, "")
    return fine(f"{len(case.x)} images get a decision each, and so does one alone.")


def _decision_problems(found: Decision, n: int) -> Iterator[str]:
    logits = found.logits
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n:
        yield f"logits are {list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}, not [{n}, K]"
    elif not logits.isfinite().all():
        yield "logits have NaN or infinity in them"
    yield from _column_problems("flagged", found.flagged, n, torch.bool)
    yield from _column_problems("rejected", found.rejected, n, torch.bool)
    yield from _column_problems("score", found.score, n, None)
    yield from _column_problems("loops", found.loops, n, torch.int64)


def policy(case: DefenceCase) -> Said:
    """CD05: refusals are of flagged images, and of a rejecting defence alone."""
    found, name = case.decided(), case.defence.policy
    problems = [
        _images(found.rejected & ~found.flagged, "rejected without being flagged"),
        "" if name == "reject" else _images(found.rejected, f'rejected, though the policy is "{name}"'),
        _images(found.flagged & ~found.rejected, "flagged but not rejected") if name == "reject" else "",
        _images(found.flagged, f'flagged, though the policy is "{name}"') if name in ("pass", "reform") else "",
    ]
    return either(problems, f'What is flagged meets the policy "{name}".')


def _images(found: Tensor, what: str) -> str:
    count = int(found.sum())
    return f"{count} of {len(found)} images are {what}" if count else ""


def trace(case: DefenceCase) -> Said:
    """CD07: the classifier's answer on the last picture taken is the decision's."""
    with isolated(case.seed), torch.no_grad():
        way = case.defence.trace(case.x.clone(), case.system.classifier)
    if problems := list(_way_problems(way, case.x)):
        return either(problems, "")
    if bool(case.fickle.any()):
        return unasked(FICKLE)
    last = case.x.clone()
    for point in way:
        last[point.taken] = point.images[point.taken]
    with torch.no_grad():
        logits = case.system.classifier(last)
    decided = case.decided()
    apart = case.differs(decided, decided._replace(logits=logits))
    return either([_images(apart, "answered otherwise than the last picture of their way is")], "It ends as decided.")


def _way_problems(way: object, x: Tensor) -> Iterator[str]:
    if not isinstance(way, list) or not all(isinstance(point, Waypoint) for point in way):
        yield "trace gives no list of Waypoint"
        return
    for point in way:
        if not isinstance(point.images, Tensor) or point.images.shape != x.shape:
            yield f"waypoint {point.name!r} has no images {list(x.shape)}"
        yield from _column_problems(f"taken of waypoint {point.name!r}", point.taken, len(x), torch.bool)


def randomised(case: DefenceCase) -> Said:
    """CD10: whether anything is drawn, and whether that is declared."""
    apart, declared, draws = case.drawn, case.defence.randomised, bool(case.drawn.any())
    if draws and not declared:
        return wrong(f"Under {SEEDS} seeds {int(apart.sum())} of {len(apart)} images get other answers; not declared.")
    if declared and not draws:
        return wrong(f"It declares to draw at random; {len(apart)} images get the same answers under {SEEDS} seeds.")
    return fine("It draws at random, and says so." if draws else "It draws nothing, and declares nothing.")


def repeatable(case: DefenceCase) -> Said:
    """CD11: the same seed, the same answer."""
    problem = _images(case.fickle, "answered otherwise under the same seed")
    return either([problem], "Two answers under one seed are the same.")


def independent(case: DefenceCase) -> Said:
    """CD13: what else is in the batch changes nothing.

    Each image keeps its row, so that what is drawn for a row is drawn alike; alone it is asked about only where
    nothing is drawn.
    """
    half = len(case.x) // 2
    first, strangers = case.x[:half], case.x[half : 2 * half]
    ours = _rows(case.decided(torch.cat([first, strangers])), half)
    theirs = _rows(case.decided(torch.cat([first, 0.5 * strangers.flip(0)])), half)
    apart = case.differs(ours, theirs)
    if bool(case.drawn.any()):
        if bool(apart.any()):
            return unasked("It draws at random, in an order that may depend on the batch.")
        return fine("What it draws for an image does not depend on the others.")
    # In whole groups, as the harness asks: a sum is rounded by the size of the batch it is taken in.
    alone = [_rows(case.decided(filled(image[None])), 1) for image in first]
    joined = Decision(*(torch.cat(column) for column in zip(*alone, strict=True)))
    apart |= case.differs(ours, joined)
    return either([_images(apart, "answered otherwise in other company, or alone")], "An image is answered by itself.")


def _rows(found: Decision, count: int) -> Decision:
    return Decision(*(column[:count] for column in found))


