"""AT07: does the attack work at all? It is tried on classifiers that are known to fall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue
from torch import Tensor, nn

from ismn_cli.attacks.params import find_attack
from ismn_cli.audit.case import Case
from ismn_cli.audit.effort import resized
from ismn_cli.audit.tolerance import fewer_than, samples
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.specs import AttackSpec, Norm

REFERENCE = {Norm.LINF: 8 / 255, Norm.L2: 0.5}
"""The sizes that an attack's stated success is for."""


class Victim(NamedTuple):
    """A classifier that is known to fall, with images."""

    model: nn.Module
    x: Tensor
    y: Tensor
    weak: bool = False
    """Whether a weak defence stands before it, which is gone through by a surrogate."""
    searched: nn.Module | None = None
    """The same in the precision of the search; None: the model itself."""


WEAK = 0.6
"""Share of its stated success that an attack must have at least behind a weak defence: see `AttackEntry.expects`."""


class _Trial(NamedTuple):
    """How the attack did on one victim."""

    name: str
    broken: int
    failed: int
    total: int
    expected: float
    moved: float
    """By how much the images were changed at most, as a share of what is allowed."""


def self_test(
    spec: AttackSpec,
    victims: Mapping[str, Victim],
    num_classes: int,
    subject: str,
    seed: int = 0,
    *,
    cells: tuple[str, ...] = (),
) -> Finding:
    """AT07: does ``spec``, brought to the reference size, break each of the ``victims`` as often as it is stated to?

    A victim that is not weak is a classifier of natural images without any defence, and not hardened: that is what
    `AttackEntry.expects` is for. Rates are of the samples that are right without attack; one on which the attack
    crashed or left the threat model is not broken.
    """
    why = _why_not(spec, victims)
    trials = [] if why else [_try(name, victim, spec, num_classes, seed) for name, victim in victims.items()]
    trials = [trial for trial in trials if trial.total]
    if not trials:
        says = why or "No victim answers any of its images right."
        return Finding(code="AT07", verdict=Verdict.NOT_RUN, subject=subject, says=says)
    verdict = max(map(_verdict, trials), key=list(Verdict).index)
    evidence: dict[str, JsonValue] = {trial.name: dict(trial._asdict()) for trial in trials}
    bad = [trial for trial in trials if _verdict(trial) is verdict]
    says = " ".join(map(_told, trials if verdict is Verdict.PASS else bad))
    keys = cells if verdict is Verdict.FAIL else ()
    return Finding(code="AT07", verdict=verdict, subject=subject, says=says, evidence=evidence, cells=keys)


def _why_not(spec: AttackSpec, victims: Mapping[str, Victim]) -> str:
    if find_attack(spec.method).expects is None:
        return f"{spec.method} is a control: no success is expected of it."
    if not spec.threat.eps:
        return "An attack of size 0 changes nothing."
    return "" if victims else "There is no classifier at hand that is known to fall."


def _try(name: str, victim: Victim, spec: AttackSpec, num_classes: int, seed: int) -> _Trial:
    stated = find_attack(spec.method).expects or 0.0
    sized = resized(spec, REFERENCE[spec.threat.norm])
    case = Case(victim.model, sized, victim.x, victim.y, num_classes, name, seed, searched=victim.searched)
    run = case.base
    return _Trial(
        name=name,
        broken=int(run.fooled.sum()),
        failed=int(run.failed.sum()),
        total=len(case.attacked),
        expected=stated * (WEAK if victim.weak else 1.0),
        moved=float(run.distance.max()) / sized.threat.eps if len(run.distance) else 0.0,
    )


def _verdict(trial: _Trial) -> Verdict:
    if fewer_than(trial.broken, trial.total, trial.expected):
        return Verdict.FAIL
    return Verdict.PASS if trial.broken >= trial.expected * trial.total else Verdict.WARN


def _told(trial: _Trial) -> str:
    says = (
        f"Against {trial.name}, which is known to fall, it broke {trial.broken:,} of {samples(trial.total)}; "
        f"at least {trial.expected:.0%} are expected of it."
    )
    if trial.failed:
        return f"{says} On {trial.failed:,} it crashed or left the threat model."
    return f"{says} It used {trial.moved:.0%} of the change that it was allowed." if trial.moved < 0.9 else says
