"""The audit of stored cells: everything that can be said without running anything again. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from ismn_cli.audit.book import TOUCHING, Book, System, noise, open_book, size
from ismn_cli.audit.claim_checks import Ceilings, claim_findings
from ismn_cli.audit.figure_checks import figure_findings
from ismn_cli.audit.order_checks import order_findings
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.rates import strict_accuracy
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge, Norm
from ismn_cli.core.worst_case import attack_of

_REFERENCE = {
    "zero gradient": ("GM03", "some images have no gradient where APGD starts"),
    "probabilities": ("GM08", "the outputs look like probabilities"),
    "dynamic": ("GM09", "the system takes gradients itself while it answers"),
    "randomised": ("RN02", "the same images get different answers"),
    "square": ("GM05", "Square broke images that AutoAttack's gradient attacks had left"),
}
"""What AutoAttack's own checks say, by a part of the note, and the check that it belongs to."""


def record_findings(results: Sequence[CellResult], ceilings: Ceilings | None = None) -> list[Finding]:
    """Return what the stored cells of some runs give away, system by system."""
    book = open_book(results)
    return [finding for system in book.systems for finding in _of(book, system, ceilings or {})]


def _of(book: Book, system: System, ceilings: Ceilings) -> Iterator[Finding]:
    yield from figure_findings(book, system)
    yield from order_findings(system)
    yield from claim_findings(system, ceilings)
    yield from large_eps(system)
    yield from reference_findings(system)


def large_eps(system: System) -> Iterator[Finding]:
    """Yield GM04 where an attack on the system itself was run at L-inf 0.5 or more."""
    levels = (*TOUCHING, Knowledge.GRAY) if system.undefended else TOUCHING
    for result in system.at(*levels):
        threat = attack_of(result.cell).threat
        if threat.norm is Norm.LINF and threat.eps >= 0.5 and not noise(attack_of(result.cell)):
            yield _erased(system, result, threat.eps)


def _erased(system: System, result: CellResult, eps: float) -> Finding:
    rate = strict_accuracy(result)
    chance = Counter(result.labels).most_common(1)[0][1] / len(result.labels) if eps < 1 else 0.0
    told = f"{rate.value:.1%} of {rate.total:,} images are still answered right at {size(Norm.LINF, eps)}"
    bad = rate.value > chance + 3 * (chance * (1 - chance) / rate.total) ** 0.5
    says = f"{told}, where {'guessing gives ' + format(chance, '.1%') if chance else 'any image is allowed'}."
    figures: dict[str, JsonValue] = {"right": rate.hits, "samples": rate.total, "chance": round(chance, 4)}
    return system.finding(
        "GM04", Verdict.FAIL if bad else Verdict.PASS, says, figures, [result.cell.key()] if bad else ()
    )


def reference_findings(system: System) -> Iterator[Finding]:
    """Yield what AutoAttack's own checks found, or that they found nothing, where it was run."""
    ran = [result for result in system.attacked if attack_of(result.cell).method == "autoattack"]
    for part, (code, says) in _REFERENCE.items() if ran else ():
        raised = [result for result in ran if any(f"autoattack: {part}" in note for note in result.notes)]
        text = f"AutoAttack's own check: {says}." if raised else "AutoAttack's own check raised nothing."
        verdict = Verdict.FAIL if raised else Verdict.PASS
        yield system.finding(code, verdict, text, cells=[r.cell.key() for r in raised])

