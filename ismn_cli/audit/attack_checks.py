"""The checks of an attack, one after the other. See `ismn_cli.core.checks` for what each asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ismn_cli.attacks.params import find_attack
from ismn_cli.audit.binarization import INNER_POINTS, binarization
from ismn_cli.audit.case import Case
from ismn_cli.audit.effort import resolved
from ismn_cli.audit.effort_checks import Judge, converged, large_eps, transfer_failure, unbounded_fails
from ismn_cli.audit.path_checks import incomplete_optimisation, silent_success
from ismn_cli.audit.rival_checks import gradient_free_wins, label_leaking, logit_scale, noise_wins
from ismn_cli.audit.still import Still, fixed_randomness, varies
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.specs import AttackSpec

__all__ = ["Budget", "Judge", "attack_findings"]


@dataclass(frozen=True)
class Budget:
    """How much the checks may cost."""

    noise_draws: int = 1000
    """A sample that the attack left, for GM07. The paper asks for 10,000."""
    square_queries: int = 1000
    """A sample that the attack left, for GM05. Square's own default is 5,000."""
    binarization_samples: int = 10
    """For BT01. The paper takes 512."""
    inner_points: int = INNER_POINTS


USUAL = Budget()


def attack_findings(
    model: nn.Module,
    spec: AttackSpec,
    x: Tensor,
    y: Tensor,
    num_classes: int,
    subject: str,
    seed: int = 0,
    *,
    budget: Budget = USUAL,
    judge: Judge | None = None,
    cells: tuple[str, ...] = (),
) -> Iterator[Finding]:
    """Yield what the checks say of the attack ``spec`` on ``model``, each as soon as it is known.

    ``model`` is what the attacker goes through: logits [n, K] for x float32 [N, C, H, W] in [0, 1], or a `Surrogate`.
    ``judge`` is the system, where that is another one; without it AT04 is not run. A model that draws at random is
    held still (`Still`) for all checks but RN01. Nothing is yielded for a control, of which nothing is expected, and
    for a universal attack, whose effort on some of the images says nothing of the others.
    Raises UsageError for parameters that the attack does not know, and where memory runs out.
    """
    entry = find_attack(spec.method)
    if entry.expects is None or entry.universal:
        return
    case = Case(model, resolved(spec), x, y, num_classes, subject, seed, cells)
    moving = case
    if len(x) and varies(model, x, seed):
        case = replace(case, model=Still(model, seed), subject=f"{subject}, draws held still")
    checks: dict[str, Callable[[], Finding]] = {
        "AT02": lambda: silent_success(case),
        "AT01": lambda: effort,
        "AT03": lambda: _with_hindsight(incomplete_optimisation(case), effort),
        "AT04": lambda: transfer_failure(case, judge),
        "AT05": lambda: unbounded_fails(case),
        "GM04": lambda: large_eps(case),
        "GM12": lambda: logit_scale(case),
        "AT06": lambda: label_leaking(case),
        "GM05": lambda: gradient_free_wins(case, budget.square_queries),
        "GM07": lambda: noise_wins(case, budget.noise_draws),
        "RN01": lambda: fixed_randomness(moving, case),
        "BT01": lambda: binarization(case, budget.binarization_samples, budget.inner_points),
    }
    why = _why_not(case)
    effort = case.not_run("AT01", why) if why else converged(case)
    for code, check in checks.items():
        yield case.not_run(code, why) if why else check()


def _with_hindsight(path: Finding, effort: Finding) -> Finding:
    """Return AT03's finding, a warning at most where AT01 went on and found next to nothing more.

    A loss that still rises is a sign that an attack was cut short. What twice the effort breaks is the proof.
    """
    if path.verdict is not Verdict.FAIL or effort.verdict not in (Verdict.PASS, Verdict.WARN):
        return path
    says = f"{path.says} Twice the effort breaks hardly more, though (AT01)."
    return path.model_copy(update={"verdict": Verdict.WARN, "says": says, "cells": ()})


def _why_not(case: Case) -> str:
    """Return why nothing can be asked of the attack; empty where it can."""
    if not case.threat.eps:
        return "An attack of size 0 changes nothing."
    if not len(case.attacked):
        return "No sample is answered right without attack, so there is nothing to break."
    if bool(case.base.failed.all()):
        return f"The attack could not be run on any sample: {'; '.join(case.base.notes)}."
    return ""
