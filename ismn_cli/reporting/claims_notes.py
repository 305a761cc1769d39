"""What a reader of a verdict table must know: the outcome in words, the rule, and each reading's case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.core.claim_verdicts import TOLERANCE, Accounting, Comparison, Fit, Fits, Verdict, nearest
from ismn_cli.core.claims import Claims
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.published import ceiling
from ismn_cli.reporting.sections import short
from ismn_cli.reporting.table import one_line

RULE = (
    "reproduced: the figure lies in the 95 % interval of the measurement (Wilson; a restoration's: Bonett and Price "
    "2006), half a unit of its last printed decimal allowed for"
)
IMPOSSIBLE = (
    "impossible as stated: read as robustness, the figure is above the ceiling: two images of different classes that "
    "are near enough share a point that both can be moved to, and one answer is wrong there. A measurement above the "
    "ceiling shows only that its attack was not the worst. A system that refuses is not bound where a refusal counts "
    "as success; noise chooses nothing and has no ceiling."
)
RESTORATION = (
    "restoration: accuracy under attack over the accuracy of the undefended classifier on the same images without "
    "attack; it may exceed 100 %."
)


def notes(claims: Claims, comparisons: Sequence[Comparison], ranked: Sequence[Fits]) -> Iterator[str]:
    """Yield the notes, the outcome first."""
    yield from _outcome(comparisons, ranked)
    yield one_line(f"Claimed: {claims.states} {claims.cite}. {claims.caveat}")
    yield from _reasons(comparisons)
    if any(found.measured for found in comparisons):
        yield _rule(claims, comparisons)
        yield IMPOSSIBLE
        yield from _unreliable(comparisons)
        yield from _limited(comparisons)
    if "restoration" in claims.metrics:
        yield RESTORATION
    yield from _readings(claims, comparisons)
    yield from _weights(comparisons)


def _outcome(comparisons: Sequence[Comparison], ranked: Sequence[Fits]) -> Iterator[str]:
    best = nearest(ranked)
    if best is None:
        yield "No figure was tested: no reading can be called the nearest."
        return
    refusing = {c.trial.claim.system for c in comparisons if c.trial.accounting is Accounting.REJECTED}
    complete = [fits[None] for fits in ranked if fits[None].reproduced == fits[None].claims]
    given = " and ".join(_name(fit, bool(refusing)) for fit in complete)
    told = f"Every figure is given by {given}." if complete else "No reading gives every figure."
    yield f"{told} The nearest over all: {_name(best, bool(refusing))}; {_counts(best)}."
    for system in [name for name in ranked[0] if name is not None]:
        fit = nearest(ranked, system)
        if fit is not None:
            yield f"The nearest to the figures of {system}: {_name(fit, system in refusing)}; {_counts(fit)}."


def _name(fit: Fit, refusals: bool) -> str:
    return f"{fit.reading.name} {fit.attack.label} as {fit.metric}" + (f", {fit.accounting}" if refusals else "")


def _counts(fit: Fit) -> str:
    apart = f"mean difference {100 * fit.distance:.1f} points, {fit.reproduced} of {fit.claims} reproduced"
    return apart + (f", {fit.claims - fit.tested} not tested" if fit.tested < fit.claims else "")


def _reasons(comparisons: Sequence[Comparison]) -> Iterator[str]:
    for why in dict.fromkeys(found.why for found in comparisons if found.verdict is Verdict.NOT_TESTED):
        same = [found for found in comparisons if found.why == why]
        systems = dict.fromkeys(found.trial.claim.system for found in same)
        text = one_line(why).rstrip(".")
        yield f"Not tested ({', '.join(systems)}; {len(same)} of {len(comparisons)} verdicts): {text}."


def _rule(claims: Claims, comparisons: Sequence[Comparison]) -> str:
    if claims.images is not None:
        more = f"; the published figures are taken as shares of {claims.images:,} images, with an interval of their own"
    else:
        more = (
            f", or within {100 * TOLERANCE:g} points, because it is not said how many images the published figures "
            "are over"
        )
    widest = max(100 * (found.measured.high - found.measured.low) / 2 for found in comparisons if found.measured)
    return (
        f"{RULE}{more}. An interval here is up to {widest:.1f} points to a side: less than that may be chance, and so "
        "may single figures be: look for a reading that gives whole rows."
    )


def _unreliable(comparisons: Sequence[Comparison]) -> Iterator[str]:
    doubted = [found for found in comparisons if found.unreliable]
    named = dict.fromkeys(
        f"{c.trial.reading.name} {c.trial.attack.label} on {c.trial.claim.system} at {format_eps(c.trial.claim.level)}"
        for c in doubted
    )
    if named:
        yield (
            f"Unreliable, by the audit of these runs: {', '.join(named)}. A check failed there, so that the figure may "
            "say less of the system than of the attack: ismn audit."
        )


def _limited(comparisons: Sequence[Comparison]) -> Iterator[str]:
    cells = [found.cell.cell for found in comparisons if found.cell is not None]
    for samples in dict.fromkeys(cell.samples for cell in cells):
        if samples.limited:
            yield (
                f"Limited: the first {samples.count:,} of {samples.total:,} images of {samples.dataset} "
                f"{samples.split}, in a seeded, class-balanced order. Fewer images are less often near one another: "
                "on more of them the ceilings are lower."
            )
    threats = [(cell.samples.dataset, cell.attack.threat) for cell in cells if cell.attack]
    known = {top.eps: top for name, threat in threats if (top := ceiling(name, threat.norm, threat.eps))}
    tops = {eps: top for eps, top in sorted(known.items()) if any(cell.samples.count < top.images for cell in cells)}
    if tops:
        bounds = ", ".join(f"{100 * top.accuracy:.1f} % at {format_eps(eps)}" for eps, top in tops.items())
        images = max(top.images for top in tops.values())
        yield f"On {images:,} test images the L-inf ceilings are {bounds}: figures above are impossible as robustness."


def _readings(claims: Claims, comparisons: Sequence[Comparison]) -> Iterator[str]:
    for reading in {found.trial.reading.name: found.trial.reading for found in comparisons}.values():
        case = [("For", reading.evidence_for), ("Against", reading.evidence_against)]
        said = "".join(f" {word}: {text}" for word, text in case if text)
        yield one_line(f"{reading.name}: level is {reading.means}.{said}")
    for other in claims.set_aside:
        yield one_line(f"Not tried, {other.name}: {other.why.rstrip('.')}.")


def _weights(comparisons: Sequence[Comparison]) -> Iterator[str]:
    cells = [found.cell.cell for found in comparisons if found.cell is not None]
    named = dict.fromkeys(
        one_line(f"{subject.name} {short(subject.weights)}")
        for cell in cells
        for subject in (cell.classifier, cell.defence)
    )
    if named:
        yield f"Weights (sha256): {', '.join(named)}."
