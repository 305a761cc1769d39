"""Checks of what is claimed: a detector's figures and threshold, and what is possible at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from ismn_cli.audit.book import LEVELS, TOUCHING, System, size, where
from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.detection import auroc, has_detector
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.rates import Rate, false_positive_rate, robust_accuracy, robust_or_refused
from ismn_cli.core.specs import Knowledge, Norm

Ceilings = Mapping[tuple[str, Norm, float], float]
"""(key of the images, norm, eps) -> the share that any classifier can at most hold."""
RECORD = 0.753
"""The best robust accuracy on CIFAR-10 at L-inf 8/255 on record, with extra data (RobustBench, March 2025)."""
RECORD_EPS = 8 / 255


def claim_findings(system: System, ceilings: Ceilings) -> Iterator[Finding]:
    """Yield DT01, DT02, CL01 and CL02 on the stored cells of ``system``."""
    if _watches(system):
        yield detector_figures(system)
        yield threshold_fixed(system)
    yield ceiling(system, ceilings)
    if any(any(r.clean.rejected) for r in (system.clean, *system.attacked) if r):
        yield rejection_claim(system)


def _watches(system: System) -> bool:
    entry = SYSTEMS.get(system.subject.name)
    policy = entry.policy in ("reject", "route") if entry else False
    return policy or any(has_detector(result) for result in system.attacked)


def detector_figures(system: System) -> Finding:
    """DT01: what a detector costs, and what it sees, is told."""
    scored = [result for result in system.attacked if has_detector(result)]
    if system.clean is None or not scored:
        says = "The system refuses or routes, and no score or no clean figure is stored: its cost is unknown."
        return system.finding("DT01", Verdict.WARN, says)
    false = false_positive_rate(system.clean)
    low, high = false.interval()
    area, weakest = min(((auroc(r), r) for r in scored), key=lambda pair: pair[0])
    says = (
        f"Flags {false.value:.1%} [{low:.1%}, {high:.1%}] of harmless images; its score tells attacked from clean at "
        f"an AUROC of {area:.3f} at worst ({where(weakest.cell)}; 0.5 is a coin)."
    )
    figures: dict[str, JsonValue] = {"false_positive_rate": round(false.value, 4), "auroc": round(area, 4)}
    return system.finding("DT01", Verdict.PASS, says, figures)


def threshold_fixed(system: System) -> Finding:
    """DT02: one threshold explains the flags of all cells."""
    answers = [a for r in (system.clean, *system.attacked) if r for a in (r.clean, r.attacked) if a is not None]
    pairs = [pair for a in answers for pair in zip(a.score, a.flagged, strict=True) if math.isfinite(pair[0])]
    flagged = [score for score, flag in pairs if flag]
    silent = [score for score, flag in pairs if not flag]
    if not flagged or not silent:
        which = "none" if not flagged else "all"
        says = f"The detector flagged {which} of the inputs stored: any threshold would explain that."
        return system.finding("DT02", Verdict.NOT_RUN, says)
    highest, lowest = max(silent), min(flagged)
    figures: dict[str, JsonValue] = {"highest_silent": highest, "lowest_flagged": lowest}
    if highest > lowest:
        says = f"A score of {highest:.4g} was let pass and one of {lowest:.4g} flagged: the threshold moved in between."
        return system.finding("DT02", Verdict.FAIL, says, figures, [r.cell.key() for r in system.attacked])
    says = f"One threshold, between {highest:.4g} and {lowest:.4g}, explains every flag that is stored."
    return system.finding("DT02", Verdict.PASS, says, figures)


def ceiling(system: System, ceilings: Ceilings) -> Finding:
    """CL01: nothing is above what the images allow."""
    found = []
    for level in LEVELS:
        for norm, eps, worst in system.worst_cases(level):
            top = ceilings.get((system.images, norm, eps))
            if top is not None:
                found.append((robust_accuracy(worst), top, level, size(norm, eps), worst))
    if not found:
        says = "The ceiling of these images was not computed: ismn ceiling."
        return system.finding("CL01", Verdict.NOT_RUN, says)
    touched = (*TOUCHING, Knowledge.GRAY) if system.undefended else TOUCHING
    above = [each for each in found if each[0].value > each[1] and each[2] in touched]
    rate, top, level, at, worst = max(above or found, key=lambda each: each[0].value - each[1])
    told = f"at {at} {LEVELS[level]} {rate.value:.1%} hold; a classifier that always answers holds {top:.1%} at most"
    figures: dict[str, JsonValue] = {"measured": round(rate.value, 4), "ceiling": round(top, 4), "eps": at}
    if rate.value <= top:
        return system.finding("CL01", Verdict.PASS, f"Nothing is above what is possible: {told}.", figures)
    keys = tuple(result.cell.key() for result in worst.cells[: worst.here])
    if above:
        says = f"Impossible as robustness: {told}. The attack missed what must exist."
        return system.finding("CL01", Verdict.FAIL, says, figures, keys)
    says = f"No robustness, for the attack missed what must exist: {told}."
    return system.finding("CL01", Verdict.WARN, says, figures)


def rejection_claim(system: System) -> Finding:
    """CL02: refusals that count as successes stay below twice the record."""
    linf = [(eps, worst) for norm, eps, worst in system.worst_cases(None) if norm is Norm.LINF]
    cases = [(eps, worst) for eps, worst in linf if eps >= 2 * RECORD_EPS - 1e-9]
    known = any(r.cell.samples.dataset.startswith("cifar10") for r in system.attacked)
    if not cases or not known:
        says = "No L-inf attack of 16/255 or more on CIFAR-10 was run: there is no record to compare with."
        return system.finding("CL02", Verdict.NOT_RUN, says)
    eps, worst = max(cases, key=lambda case: robust_or_refused(case[1]).value)
    rate: Rate = robust_or_refused(worst)
    told = (
        f"at {size(Norm.LINF, eps)} {rate.value:.1%} are right or refused; the best classifier on record holds "
        f"{RECORD:.1%} at 8/255, and such a detector would give one at half its size"
    )
    figures: dict[str, JsonValue] = {"right_or_refused": round(rate.value, 4), "record": RECORD}
    if rate.interval()[0] > RECORD:
        return system.finding("CL02", Verdict.FAIL, f"Not plausible: {told}.", figures)
    return system.finding("CL02", Verdict.PASS, f"Plausible: {told}.", figures)
