"""The rules of an attack, CA01 to CA14."""

from __future__ import annotations

import torch
from torch import Tensor

from ismn_cli.core.specs import Norm, format_eps
from ismn_cli.engine.ball import TOLERANCE, distances
from ismn_cli.testing.attack_case import AttackCase
from ismn_cli.testing.surroundings import reseeded, same
from ismn_cli.testing.verdicts import Said, doubt, either, fine, unasked, wrong

SMALL, LARGE = 0.125, 2.0
"""Shares of the usual size: no image can be broken at the first, every one at the second."""
NO_SUCCESS = "Little or no success is expected of it."
REACH = 0.5
"""Images whose distance is this share of eps are expected to be broken."""


def runs(case: AttackCase) -> Said:
    """CA01: it raises nothing."""
    case.tried(case.several)
    return fine(f"It ran on {len(case.several.x)} images.")


def images(case: AttackCase) -> Said:
    """CA02: images of the same shape."""
    found, x = case.trial.proposed, case.several.x
    if not isinstance(found, Tensor):
        return wrong(f"It returns a {type(found).__name__}, not a tensor.")
    problems = [
        "" if found.shape == x.shape else f"it returns {list(found.shape)} for images {list(x.shape)}",
        "" if found.is_floating_point() else f"it returns {str(found.dtype).removeprefix('torch.')}, not floats",
    ]
    return either(problems, f"Images {list(x.shape)} give images of the same shape.")


def _proposals(case: AttackCase) -> list[tuple[Tensor, Tensor]]:
    """Return (proposed, clean) of ordinary images, and of black and white ones."""
    edges = (case.several.x > 0.5).float()
    pairs = [(case.trial.proposed, case.several.x), (case.tried(case.several, x=edges).proposed, edges)]
    return [(found, x) for found, x in pairs if isinstance(found, Tensor) and found.shape == x.shape]


def finite(case: AttackCase) -> Said:
    """CA03: neither NaN nor infinity."""
    bad = sum(int((~found.isfinite().flatten(1).all(1)).sum()) for found, _ in _proposals(case))
    return either([f"{bad} images have NaN or infinity in them"] if bad else [], "Its images are finite.")


def ball(case: AttackCase) -> Said:
    """CA04: no further than eps."""
    most = [float(_distance(found.float(), x, case.norm).nan_to_num(0.0).max()) for found, x in _proposals(case)]
    far = max(most)
    told = f"images lie up to {far:.4g} away in {case.norm} at eps {case.eps:.4g}"
    return either([told] if far > case.eps + TOLERANCE else [], f"Images lie within {format_eps(case.eps)}.")


def _distance(one: Tensor, other: Tensor, norm: Norm) -> Tensor:
    return distances(one, other)[0 if norm is Norm.LINF else 1]


def box(case: AttackCase) -> Said:
    """CA05: pixels in [0, 1]."""
    low = min(float(found.nan_to_num(0.0).min()) for found, _ in _proposals(case))
    high = max(float(found.nan_to_num(0.0).max()) for found, _ in _proposals(case))
    out = low < -TOLERANCE or high > 1 + TOLERANCE
    return either([f"pixels lie between {low:.4g} and {high:.4g}"] if out else [], "Pixels lie in [0, 1].")


def model_untouched(case: AttackCase) -> Said:
    """CA06: the model is as it was."""
    return either(case.trial.model, "Weights, buffers, modes and gradients of the model are as before.")


def inputs_untouched(case: AttackCase) -> Said:
    """CA07: the images and labels are as they were."""
    return either(case.trial.inputs, "Images and labels are as before.")


def globals_untouched(case: AttackCase) -> Said:
    """CA08: settings and generators are as they were."""
    on = case.several
    attack = case.made()

    def run() -> None:
        attack(case.borrowed(on), on.x[:2].clone(), on.y[:2].clone())

    return either([*case.trial.settings, *reseeded(run)], "Global settings and generators are as before.")


def repeatable(case: AttackCase) -> Said:
    """CA09: one seed, one result."""
    first, second = case.trial.proposed, case.tried(case.several).proposed
    alike = isinstance(first, Tensor) and isinstance(second, Tensor) and same(first, second)
    return either([] if alike else ["two runs under one seed differ"], "Two runs under one seed give the same images.")


def eps_zero(case: AttackCase) -> Said:
    """CA10: at size 0 the images come back as they were."""
    found, x = case.tried(case.several, eps=0.0).proposed, case.several.x
    if not isinstance(found, Tensor) or found.shape != x.shape:
        return wrong("At eps 0 it returns something else than images of the same shape.")
    most = float((found - x).abs().nan_to_num(torch.inf).max())
    return either([f"at eps 0 pixels move by {most:.3g}"] if most > TOLERANCE else [], "At eps 0 nothing moves.")


def one_image(case: AttackCase) -> Said:
    """CA11: a batch of one."""
    found, x = case.tried(case.several, count=1).proposed, case.several.x[:1]
    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    return either([] if shape == list(x.shape) else [f"one image gives {shape}"], "One image alone is attacked too.")


def two_classes(case: AttackCase) -> Said:
    """CA12: two logits."""
    found, x = case.tried(case.two).proposed, case.two.x
    if not isinstance(found, Tensor) or found.shape != x.shape:
        return wrong("On two classes it returns something else than images of the same shape.")
    bad = int((~found.isfinite().flatten(1).all(1)).sum())
    return either([f"on two classes {bad} images are not finite"] if bad else [], "It runs on two classes too.")


def larger_eps(case: AttackCase) -> Said:
    """CA13: more is broken where more is allowed."""
    if case.control:
        return unasked(NO_SUCCESS)
    small, large = (int(case.broken(case.several, share * case.eps).sum()) for share in (SMALL, LARGE))
    total = len(case.several.x)
    told = f"of {total} images {small} are broken at {SMALL:g} times the usual eps, and {large} at {LARGE:g} times"
    said = f"{told[0].upper()}{told[1:]}."
    return fine(said) if large > small else wrong(said)


def optimum(case: AttackCase) -> Said:
    """CA14: images that are known to be within reach are reached."""
    if case.control:
        return unasked(NO_SUCCESS)
    reachable = case.two.distance <= REACH * case.eps
    broken = int((case.broken(case.two) & reachable).sum())
    total = int(reachable.sum())
    said = f"Of {total} images within {REACH:g} eps of a linear classifier's boundary, {broken} are broken."
    if 2 * broken < total:
        return wrong(said)
    return fine(said) if broken == total else doubt(said)
