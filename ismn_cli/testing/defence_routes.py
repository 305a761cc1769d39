"""Rules of what an attacker who knows the defence goes through: CD08, CD09, CD12 and CD18."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ismn_cli.engine.rng import isolated
from ismn_cli.testing.defence_case import DefenceCase
from ismn_cli.testing.verdicts import Said, doubt, either, fine, unasked
from ismn_models.pipeline import Reading

ORDINARY = slice(0, 6)
"""Images whose gradient is asked for: at a black or white one the box may hide it."""


def surrogates(case: DefenceCase) -> Said:
    """CD08: each route has logits and a gradient."""
    routes = case.system.surrogates()
    strange = [name for name in case.defence.exact if name not in routes]
    problems = [f"exact names {name!r}, which is no surrogate" for name in strange]
    problems += [] if routes else ["it names no surrogate"]
    for route in routes:
        problems += _route_problems(case, route)
    return either(problems, f"Each of {', '.join(routes)} has a gradient.")


def _route_problems(case: DefenceCase, route: str) -> Iterator[str]:
    x = case.x[ORDINARY].clone().requires_grad_()
    classes = case.decided(case.x[:1]).logits.shape[1]
    with isolated(case.seed):
        reading = case.system.surrogates()[route].look(x)
    if not isinstance(reading, Reading):
        yield f"{route} gives a {type(reading).__name__}, not a Reading"
        return
    if reading.logits.shape != (len(x), classes):
        yield f"{route} has logits {list(reading.logits.shape)}, not [{len(x)}, {classes}]"
        return
    weights = torch.linspace(-1, 2, classes)
    outputs = {"logits": reading.logits @ weights, "margin": reading.margin}
    for what, output in outputs.items():
        if output is not None and (problem := gradient_problem(output, x)):
            yield f"{route} gives the attacker {problem} of the {what}"


def gradient_problem(output: Tensor, x: Tensor) -> str:
    """Return what is wrong with the gradient of ``output`` with respect to x [N, ...]; empty where nothing is."""
    if not output.requires_grad:
        return "no gradient"
    (found,) = torch.autograd.grad(output.sum(), x, retain_graph=True, allow_unused=True)
    if found is None:
        return "no gradient with respect to the images"
    if not found.isfinite().all():
        return "a gradient that is not finite"
    zero = int((found.abs().flatten(1).amax(1) == 0).sum())
    return f"a gradient of zero on {zero} of {len(x)} images" if zero else ""


def differentiable(case: DefenceCase) -> Said:
    """CD09: whether reform has a gradient, and whether that is declared."""
    x = case.x[ORDINARY].clone().requires_grad_()
    with isolated(case.seed):
        reformed = case.defence.reform(x)
    weights = torch.linspace(0.5, 1.5, reformed[0].numel()).view_as(reformed[0])
    problem = gradient_problem((reformed * weights).flatten(1).sum(1), x)
    if case.defence.differentiable:
        return either([f"it is declared, and reform has {problem}"] if problem else [], "Reform has a gradient.")
    if problem:
        return fine(f"It is declared that reform has no gradient, and it has {problem}.")
    return doubt("It is declared that reform has no gradient, but it has one: attackers get the identity instead.")


def margin(case: DefenceCase) -> Said:
    """CD12: 0 and more is flagged."""
    flagged = case.decided().flagged
    problems, guarded = [], False
    for route in case.system.surrogates():
        found = case.looked(route).margin
        if found is None or route in case.defence.exact:
            continue
        guarded = True
        if found.shape != flagged.shape:
            problems.append(f"the margin of {route} has the shape {list(found.shape)}, not [{len(flagged)}]")
        elif apart := int(((found >= 0) != flagged).sum()):
            problems.append(f"the margin of {route} is on the wrong side of 0 for {apart} of {len(flagged)} images")
    if not guarded and not bool(flagged.any()):
        return unasked("No detector stands in an attacker's way.")
    if not guarded and case.defence.policy == "reject":
        problems.append("images are rejected, and no surrogate has a margin")
    return either(problems, "Margins are 0 or more where an image is flagged, and there only.")


def agree(case: DefenceCase) -> Said:
    """CD18: on most images some route gives the logits of the decision."""
    decided = case.decided()
    hit = torch.zeros(len(case.x), dtype=torch.bool)
    for route in case.system.surrogates():
        logits = case.looked(route).logits
        hit |= ~case.differs(decided, decided._replace(logits=logits))
    share = float(hit.float().mean())
    if share < 0.5:
        return doubt(f"A surrogate answers as the system does on {int(hit.sum())} of {len(hit)} images.")
    return fine(f"On {int(hit.sum())} of {len(hit)} images a surrogate answers as the system does.")
