"""Two attacks on one system, sample by sample: did the one that should be stronger miss what the other found?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.paired import ALPHA
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import Outcome

_ATTACKED = (Outcome.SURVIVED, Outcome.DETECTED, Outcome.BROKEN)


@dataclass(frozen=True)
class Missed:
    """How many samples only one of two attacks broke.

    A refused sample is not broken here: to be refused is no feat of an attack.
    """

    what: str
    """Such as "8/255: gray-box against white-box"."""
    missed: int
    """Broken by the attack that should be the weaker one, and not by the other."""
    more: int
    """Broken only by the one that should be stronger."""
    total: int
    """Samples answered right without attack, on which both ran."""
    cells: tuple[str, ...] = ()
    """Keys of the cells of the one that should be stronger."""

    def p_value(self) -> float:
        """Return the exact one-sided p of McNemar's test: would equally strong attacks miss so many?"""
        from scipy.stats import binomtest

        if not self.missed + self.more:
            return 1.0
        return float(binomtest(self.missed, self.missed + self.more, alternative="greater").pvalue)

    def share_above(self, tolerance: float) -> bool:
        """Whether the share missed is significantly above ``tolerance``: so is its Wilson interval."""
        return Rate(self.missed, self.total).interval()[0] > tolerance if self.missed else False

    def evidence(self) -> dict[str, JsonValue]:
        """Return the figures."""
        return {
            "what": self.what,
            "missed": self.missed,
            "found_only_by_the_stronger": self.more,
            "samples": self.total,
            "p": round(self.p_value(), 6),
        }


def missed(
    what: str, stronger: Sequence[Outcome], weaker: Sequence[Outcome], cells: Sequence[str] = ()
) -> Missed:
    """Compare two columns of outcomes of the same samples; those that an attack could not be run on are left out."""
    pairs = [pair for pair in zip(stronger, weaker, strict=True) if all(o in _ATTACKED for o in pair)]
    only_weaker = sum(s is not Outcome.BROKEN and w is Outcome.BROKEN for s, w in pairs)
    only_stronger = sum(s is Outcome.BROKEN and w is not Outcome.BROKEN for s, w in pairs)
    return Missed(what, only_weaker, only_stronger, len(pairs), tuple(cells))


@dataclass(frozen=True)
class Rule:
    """How a check reads such comparisons."""

    code: str
    good: str
    """The sentence where nothing is missed; {pairs} is the number of comparisons."""
    bad: str
    """The sentence for the worst of them, with {what}, {missed}, {total}, {more} and {p}."""
    tolerance: float | None = None
    """Share missed that is tolerated; None: fail where the weaker is significantly stronger on the whole."""
    any_warns: bool = True
    """Whether a single sample missed is a warning; else only where more are missed than found."""
    at_most: Verdict = Verdict.FAIL


def judged(rule: Rule, subject: str, found: Sequence[Missed], lacking: str) -> Finding:
    """Return what ``rule`` says of a subject's comparisons; "not run", and what is ``lacking``, without any."""
    if not found:
        return Finding(code=rule.code, verdict=Verdict.NOT_RUN, subject=subject, says=lacking)
    verdicts = [_verdict(rule, each) for each in found]
    order = list(Verdict)
    verdict = max(verdicts, key=order.index)
    evidence: dict[str, JsonValue] = {"comparisons": [each.evidence() for each in found]}
    if verdict is Verdict.PASS:
        return Finding(code=rule.code, verdict=verdict, subject=subject, says=rule.good, evidence=evidence)
    flagged = [each for each, own in zip(found, verdicts, strict=True) if own is verdict]
    worst = max(flagged, key=lambda each: (each.missed - each.more, each.missed))
    also = f" {len(flagged)} comparisons in all show it." if len(flagged) > 1 else ""
    cells = tuple(dict.fromkeys(key for each in flagged for key in each.cells)) if verdict is Verdict.FAIL else ()
    return Finding(
        code=rule.code, verdict=verdict, subject=subject, says=_told(rule, worst) + also, evidence=evidence, cells=cells
    )


def _verdict(rule: Rule, each: Missed) -> Verdict:
    if rule.tolerance is None:
        fails = each.missed > each.more and each.p_value() <= ALPHA
    else:
        fails = each.share_above(rule.tolerance)
    if fails:
        return rule.at_most
    return Verdict.WARN if each.missed > (0 if rule.any_warns else each.more) else Verdict.PASS


def _told(rule: Rule, worst: Missed) -> str:
    p = worst.p_value()
    return rule.bad.format(
        what=worst.what,
        missed=images(worst.missed),
        total=f"{worst.total:,}",
        more=f"{worst.more:,}",
        p="below 0.001" if p < 0.001 else f"{p:.3f}",
    )


ONE_ANSWER = 0.9


def one_answer(share: float, largest: float) -> bool:
    """Whether a system that gives one answer to a ``share`` of images has collapsed; the largest class has ``largest``.

    Besides, the other answers are less than half as many as the images of other classes: classes may be unequal.
    """
    return share >= ONE_ANSWER and 2 * (1 - share) < 1 - largest


def images(count: int) -> str:
    """Return "1 image", "12 images"."""
    return f"{count:,} image{'' if count == 1 else 's'}"
