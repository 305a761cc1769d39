"""AT01, AT04, AT05 and GM04: the same attack with more effort, with a larger size, and on what is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor

from ismn_cli.audit.case import Case, Run
from ismn_cli.audit.effort import RESTARTS, STEPS, one_step, parameter, resized, twice
from ismn_cli.audit.tolerance import graded, more_than, samples
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.specs import Norm
from ismn_cli.engine.rng import derive

Judge = Callable[[Tensor, Tensor], Tensor]
"""(images [n, C, H, W], labels int64 [n]) -> bool [n]: the whole system answers wrong, and does not refuse."""

CONVERGED = 0.005
"""Share of samples broken only with twice the effort above which an attack had not converged."""
TRANSFER = 0.01
GREY = 0.5
"""At this L-inf size every image can be made the same grey."""
MORE = 1.25
"""By what factor the points shown have to grow where the effort is doubled: else the parameter has no effect."""

_FAILED = "At such a size the attack crashes or leaves the threat model."


class _Try(NamedTuple):
    what: str
    found: int
    idle: bool


def converged(case: Case) -> Finding:
    """AT01: does the attack find nothing more with twice the effort?"""
    if not len(case.left):
        return case.finding("AT01", Verdict.PASS, "The attack broke every sample: more effort has nothing to find.")
    tries = list(_tries(case))
    if not tries:
        return case.not_run("AT01", "There are no steps or restarts of which the attack could take twice as many.")
    total = len(case.attacked)
    evidence: dict[str, JsonValue] = {each.what: each.found for each in tries}
    evidence["samples"] = total
    most = max(tries, key=lambda each: each.found)
    if most.found:
        says = f"With {most.what} the attack breaks {samples(most.found)} more of {total:,}: it had not finished."
        return case.finding("AT01", graded(most.found, total, CONVERGED), says, evidence)
    idle = [each.what for each in tries if each.idle]
    if idle:
        says = f"With {' or '.join(idle)} the attack does no more than before: it ignores the parameter."
        return case.finding("AT01", Verdict.WARN, says, evidence)
    says = f"The attack finds nothing more with {' or with '.join(each.what for each in tries)} ({samples(total)})."
    return case.finding("AT01", Verdict.PASS, says, evidence)


def _tries(case: Case) -> Iterator[_Try]:
    """Yield what twice the effort finds among the samples that the attack left."""
    for names, kind in ((STEPS, "steps"), (RESTARTS, "restarts")):
        name = parameter(case.spec, names)
        if name is not None:
            run = case.run(twice(case.spec, name), case.left)
            if run.failed.all():
                continue
            what = "twice the queries" if name == "n_queries" else f"twice the {kind}"
            yield _Try(what, int(run.fooled.sum()), _idle(case, run))
    if parameter(case.spec, RESTARTS) is None and case.spec.params.get("random_start") is True:
        again = replace(case, seed=derive(case.seed, "restart"))
        yield _Try("a second random start", int(again.run(who=case.left).fooled.sum()), False)


def _idle(case: Case, run: Run) -> bool:
    """Whether the doubled attack showed the model hardly more points of the samples left than the attack did."""
    if case.entry.minimum_norm:
        return False  # its points lie outside the ball, and it stops when it likes
    left = set(case.left.tolist())
    mine = [i for i, position in enumerate(case.attacked.tolist()) if position in left]
    before, after = case.base.points(), run.points()
    base = int(before[torch.tensor(mine)].sum())
    return base > 0 and int(after.sum()) < MORE * base


def transfer_failure(case: Case, judge: Judge | None) -> Finding:
    """AT04: do examples that fool what was attacked fool what is judged?"""
    if judge is None:
        return case.not_run("AT04", "What was attacked is what is judged: there is no stand-in to compare with.")
    run = case.base
    total = int(run.fooled.sum())
    if not total:
        return case.not_run("AT04", "No example fools what was attacked, so none could fail to fool the system.")
    images = run.images[run.fooled.to(run.images.device)]
    broken = judge(images, case.y[case.attacked.to(case.y.device)][run.fooled.to(case.y.device)])
    failing = total - int(broken.sum())
    evidence: dict[str, JsonValue] = {"fooled": total, "not_transferred": failing}
    if failing:
        says = f"Of {total:,} examples that fool what was attacked, {failing:,} do not fool the system."
        return case.finding("AT04", graded(failing, total, TRANSFER), says, evidence)
    says = f"All {total:,} examples that fool what was attacked fool the system."
    return case.finding("AT04", Verdict.PASS, says, evidence)


def large_eps(case: Case) -> Finding:
    """GM04: does a perturbation that can erase the picture erase its accuracy?"""
    if why := _no_size(case):
        return case.not_run("GM04", why)
    grey = case.run(resized(case.spec, GREY))
    half, one = _answered_right(grey), _answered_right(case.unbounded)
    if bool(grey.failed.any()) or bool(case.unbounded.failed.any()):
        return case.not_run("GM04", _FAILED)
    total = len(case.x)
    guess = max(1 / case.num_classes, float(torch.bincount(case.y).max()) / total)
    evidence: dict[str, JsonValue] = {"kept_at_half": half, "kept_at_one": one, "samples": total, "guessing": guess}
    figures = f"{half / total:.0%} at eps 0.5 and {one / total:.0%} at eps 1"
    if one or more_than(half, total, guess):
        says = f"The picture could be erased, and accuracy is still {figures}, where guessing has {guess:.0%} and none."
        return case.finding("GM04", Verdict.FAIL, says, evidence)
    if half > guess * total:
        says = f"Accuracy is {figures}, a little more than the {guess:.0%} of guessing."
        return case.finding("GM04", Verdict.WARN, says, evidence)
    says = f"Where the picture can be erased accuracy is gone: {figures}."
    return case.finding("GM04", Verdict.PASS, says, evidence)


def unbounded_fails(case: Case) -> Finding:
    """AT05: does the attack succeed when every image is allowed?"""
    if why := _no_size(case):
        return case.not_run("AT05", why)
    run, total = case.unbounded, len(case.attacked)
    if bool(run.failed.any()):
        return case.not_run("AT05", _FAILED)
    kept, refused = int((~run.fooled).sum()), int((run.wrong & run.refused).sum())
    evidence: dict[str, JsonValue] = {"kept": kept, "refused": refused, "samples": total}
    if kept:
        says = f"Free to return any image at all, the attack still fails on {samples(kept)} of {total:,}."
        if refused:
            says += f" On {refused:,} of them the classifier was fooled, and the detector was not."
        return case.finding("AT05", Verdict.FAIL, says, evidence)
    says = f"Free to return any image, the attack succeeds on every sample ({total:,})."
    return case.finding("AT05", Verdict.PASS, says, evidence)


def _no_size(case: Case) -> str:
    """Return why the attack cannot be asked for a size that erases the picture; empty where it can."""
    if case.threat.norm is not Norm.LINF:
        return "The largest L2 size that can be asked for is 1, and that does not hold every image."
    if one_step(case.spec):
        return "A single step of such a size leaves the region that its gradient describes: it need not succeed."
    return ""


def _answered_right(run: Run) -> int:
    """Return on how many samples the attack leaves a right answer. A refusal is none."""
    return int((~(run.wrong | run.refused | run.failed)).sum())
