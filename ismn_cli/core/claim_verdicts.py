"""A published figure against a measured one: reproduced, not reproduced, impossible as stated, or not tested.

The rule. A figure is reproduced where it lies in the 95 % interval of the measurement (Wilson; for a restoration Bonett
and Price 2006). Where it is said how many images the published figure is over, the 95 % interval of the difference of
the two has to contain 0 instead (method 10 of Newcombe 1998, Statistics in Medicine 17, 873-890); where it is not, a
difference of 2 points at most is a reproduction too: a full test set gives an interval narrower than two trainings of
the same design are apart. Half a unit of the last printed decimal is allowed for everywhere.

A figure above the ceiling of the same images is impossible as stated, whatever was measured: no classifier that always
answers is so often right against an attacker who may choose. The measurement stands beside it: a weak attack can give
such figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.claims import AttackReading, Claim, Claims, Metric, Reading
from ismn_cli.core.intervals import normal_quantile, ratio_interval, wilson
from ismn_cli.core.paired import Paired, paired
from ismn_cli.core.rates import answered_right, rejected_counts, strict_accuracy
from ismn_cli.core.records import CellResult

LEVEL = 0.95
TOLERANCE = 0.02
"""Difference, as a share, up to which a figure of an unknown number of images counts as reproduced."""
_ROUNDING = 1e-9


class Verdict(StrEnum):
    """What became of a claim under one reading."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    IMPOSSIBLE = "impossible as stated"
    NOT_TESTED = "not tested"


class Accounting(StrEnum):
    """What a refused image counts as."""

    STRICT = "strict"
    REJECTED = "rejected = success"
    """MagNet's accounting (Meng and Chen 2017)."""


@dataclass(frozen=True)
class Estimate:
    """A measured share, or ratio of shares, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trial:
    """A claim under one reading of its level, attack and metric."""

    claim: Claim
    reading: Reading
    attack: AttackReading
    metric: Metric
    accounting: Accounting


@dataclass(frozen=True)
class Evidence:
    """What there is to hold a claim against. Without ``attacked``, ``why`` says why it was not tested."""

    attacked: CellResult | None = None
    undefended: CellResult | None = None
    """The undefended classifier on the same images, without attack."""
    ceiling: float | None = None
    """Of robust accuracy on the same images, a share in [0, 1]."""
    why: str = ""
    unreliable: bool = False
    """Whether a failed check of the audit says so of the attacked cell."""


@dataclass(frozen=True)
class Comparison:
    """A trial with its verdict."""

    trial: Trial
    verdict: Verdict
    cell: CellResult | None = None
    measured: Estimate | None = None
    ceiling: float | None = None
    """In the unit of the figure; None where there is none."""
    agrees: bool | None = None
    """Whether the measurement reproduces the figure, be it possible or not; None where it was not tested."""
    why: str = ""
    unreliable: bool = False

    @property
    def difference(self) -> float | None:
        """Measured less claimed, as a share; None where it was not tested."""
        return None if self.measured is None else self.measured.value - self.trial.claim.figure


def trials_of(claims: Claims, readings: Sequence[Reading]) -> Iterator[Trial]:
    """Yield every claim under every reading; what refuses in both accountings."""
    for metric in claims.metrics:
        for reading in readings:
            for attack in reading.attacks:
                for claim in claims.each():
                    if claim.attack in (None, attack.label):
                        yield from (Trial(claim, reading, attack, metric, a) for a in _accountings(claim.system))


def _accountings(system: str) -> tuple[Accounting, ...]:
    refuses = system in SYSTEMS and SYSTEMS[system].policy == "reject"
    return tuple(Accounting) if refuses else (Accounting.STRICT,)


def compare(claims: Claims, trial: Trial, evidence: Evidence) -> Comparison:
    """Return the verdict on one claim under one reading."""
    why = _hindrance(trial, evidence)
    if evidence.attacked is None or why:
        return Comparison(trial, Verdict.NOT_TESTED, cell=evidence.attacked, why=why)
    measured = estimate(evidence.attacked, evidence.undefended, trial.metric, trial.accounting)
    slack = 0.5 * 10**-claims.decimals
    top = _ceiling(trial, evidence)
    agrees = reproduces(trial.claim.figure, measured, claims.images, slack)
    if top is not None and trial.claim.figure - slack > top + _ROUNDING:
        verdict = Verdict.IMPOSSIBLE
    else:
        verdict = Verdict.REPRODUCED if agrees else Verdict.NOT_REPRODUCED
    doubted = evidence.unreliable and trial.reading.worst_case  # the checks ask more of an attack than of noise
    return Comparison(trial, verdict, evidence.attacked, measured, top, agrees, unreliable=doubted)


def reproduces(figure: float, measured: Estimate, images: int | None, slack: float = 0.0) -> bool:
    """Return whether a measurement gives a published ``figure`` over ``images`` images; see the rule above."""
    slack += _ROUNDING
    if images is None:
        inside = measured.low - slack <= figure <= measured.high + slack
        return inside or abs(figure - measured.value) <= TOLERANCE + slack
    low, high = wilson(figure * images, images, normal_quantile(LEVEL))
    down = math.hypot(measured.value - measured.low, high - figure)
    up = math.hypot(measured.high - measured.value, figure - low)
    return -up - slack <= measured.value - figure <= down + slack


def estimate(
    attacked: CellResult, undefended: CellResult | None, metric: Metric, accounting: Accounting
) -> Estimate:
    """Return the measured figure. A restoration needs the undefended classifier's cell without attack."""
    if metric == "restoration":
        if undefended is None:
            raise ValueError("a restoration needs the undefended classifier")
        counts = paired(_counted(attacked, accounting), answered_right(undefended))
        return Estimate(_ratio(counts), *ratio_interval(counts, LEVEL))
    rate = rejected_counts(attacked) if accounting is Accounting.REJECTED else strict_accuracy(attacked)
    return Estimate(rate.value, *rate.interval(LEVEL))


def _counted(attacked: CellResult, accounting: Accounting) -> list[bool]:
    """Return for each image whether it counts as a success under attack."""
    right = answered_right(attacked)
    if accounting is Accounting.STRICT or attacked.attacked is None:
        return right
    refused = zip(attacked.attacked.rejected, attacked.failed, strict=True)
    return [hit or (no and not failed) for hit, (no, failed) in zip(right, refused, strict=True)]


def _ratio(counts: Paired) -> float:
    return (counts.both + counts.only_first) / (counts.both + counts.only_second)


def _hindrance(trial: Trial, evidence: Evidence) -> str:
    """Return why there is no verdict; empty where there can be one."""
    if evidence.attacked is None:
        return evidence.why
    failed = sum(evidence.attacked.failed)
    if failed:
        notes = "; ".join(evidence.attacked.notes)
        return f"the attack failed on {failed:,} of {len(evidence.attacked.ids):,} images. {notes}".rstrip(". ")
    if trial.metric == "accuracy":
        return ""
    if evidence.undefended is None:
        return "the undefended classifier at hand is another than its own"
    return "" if any(answered_right(evidence.undefended)) else "the undefended classifier is right on no image"


def _ceiling(trial: Trial, evidence: Evidence) -> float | None:
    """Return the ceiling in the unit of the figure. None binds noise, nor who may refuse and be counted right."""
    if evidence.ceiling is None or not trial.reading.worst_case or trial.accounting is Accounting.REJECTED:
        return None
    if trial.metric == "accuracy" or evidence.undefended is None:
        return evidence.ceiling
    right = answered_right(evidence.undefended)
    return evidence.ceiling * len(right) / sum(right)


@dataclass(frozen=True)
class Fit:
    """How well one reading gives the figures of one system, or of all."""

    reading: Reading
    attack: AttackReading
    metric: Metric
    accounting: Accounting
    system: str | None
    """None for all."""
    claims: int
    tested: int
    reproduced: int
    """Figures that the measurement gives, be they possible or not."""
    impossible: int
    distance: float
    """Mean absolute difference of measured and claimed, as a share; NaN where nothing was tested."""


Fits = Mapping[str | None, Fit]
"""By system, and None for all."""


def fits(comparisons: Sequence[Comparison]) -> list[Fits]:
    """Return how well each reading does, the nearest over all systems first; equally near ones in order.

    A reading that left claims untested comes after all that left fewer: means over other claims do not compare.
    """
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for found in comparisons:
        trial = found.trial
        groups.setdefault((trial.reading.name, trial.attack.label, trial.metric), []).append(found)
    refusing = any(found.trial.accounting is Accounting.REJECTED for found in comparisons)
    accountings = list(Accounting) if refusing else [Accounting.STRICT]
    made = [_fits(group, accounting) for group in groups.values() for accounting in accountings]
    return sorted(made, key=lambda fit: _nearness(fit[None]))


def _nearness(fit: Fit) -> tuple[int, float]:
    return fit.claims - fit.tested, fit.distance if fit.tested else math.inf


def nearest(found: Sequence[Fits], system: str | None = None) -> Fit | None:
    """Return the reading nearest to the figures of ``system``, or to all; None where nothing was tested."""
    tested = [fit[system] for fit in found if system in fit and fit[system].tested]
    return min(tested, key=_nearness, default=None)


def _fits(group: Sequence[Comparison], accounting: Accounting) -> Fits:
    """Return the fits of one reading; systems that never refuse have one accounting only."""
    refusing = {c.trial.claim.system for c in group if c.trial.accounting is Accounting.REJECTED}
    mine = [
        c
        for c in group
        if c.trial.accounting is (accounting if c.trial.claim.system in refusing else Accounting.STRICT)
    ]
    systems = dict.fromkeys(c.trial.claim.system for c in mine)
    made: dict[str | None, Fit] = {None: _fit(mine, accounting, None)}
    for name in systems:
        made[name] = _fit([c for c in mine if c.trial.claim.system == name], accounting, name)
    return made


def _fit(found: Sequence[Comparison], accounting: Accounting, system: str | None) -> Fit:
    trial = found[0].trial
    apart = [abs(c.difference) for c in found if c.difference is not None]
    return Fit(
        trial.reading,
        trial.attack,
        trial.metric,
        accounting,
        system,
        claims=len(found),
        tested=len(apart),
        reproduced=sum(bool(c.agrees) for c in found),
        impossible=sum(c.verdict is Verdict.IMPOSSIBLE for c in found),
        distance=sum(apart) / len(apart) if apart else math.nan,
    )
