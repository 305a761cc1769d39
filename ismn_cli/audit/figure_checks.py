"""Checks of stored figures by themselves: is anything missing, collapsed, unknown, or above what is possible?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import JsonValue

from ismn_cli.audit.book import TOUCHING, Book, System, iterated, noise, size, where
from ismn_cli.audit.compare import images, one_answer
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.paired import Paired, paired
from ismn_cli.core.rates import answered_right, robust_accuracy
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Knowledge, Norm
from ismn_cli.core.worst_case import attack_of

UNDEFENDED_AT_MOST = 0.05
HELD_OUT_GAP = 0.20
TRAINED_ON = ("fgsm", "pgd")


def figure_findings(book: Book, system: System) -> Iterator[Finding]:
    """Yield EV01 to EV03, EV05, AT04 and AT08 on the stored cells of ``system``."""
    yield worst_case(system)
    if system.subject.name == "none":
        yield undefended_breaks(system)
    yield held_out(system)
    yield collapsed(system)
    yield transfer_failure(book, system)
    yield left_threat_model(system)


def worst_case(system: System) -> Finding:
    """EV01: the headline is a minimum over attacks that deserve the name."""
    attacks = {attack_of(r.cell).method for r in system.attacked if not noise(attack_of(r.cell))}
    levels = {r.cell.knowledge for r in system.attacked}
    told: dict[str, JsonValue] = {"attacks": [*sorted(attacks)], "levels": [*sorted(levels)]}
    if not attacks:
        return system.finding("EV01", Verdict.NOT_RUN, "No attack was run.")
    if not system.undefended and not levels & set(TOUCHING):
        says = "No attacker who knows the defence was tried: the worst case is over attackers who never saw it."
        return system.finding("EV01", Verdict.WARN, says, told)
    if len(attacks) == 1:
        says = f"One kind of attack only, {next(iter(attacks))}: the worst case over attacks is that one."
        return system.finding("EV01", Verdict.WARN, says, told)
    says = f"The headline is, image by image, the worst of {len(attacks)} kinds of attack at {len(levels)} levels."
    return system.finding("EV01", Verdict.PASS, says, told)


def undefended_breaks(system: System) -> Finding:
    """EV02: gradient attacks of many steps leave nothing of a bare classifier at 8/255 (L2: 0.5) and above."""
    found = [r for r in system.at(Knowledge.GRAY, *TOUCHING) if iterated(attack_of(r.cell)) and _large(r)]
    if not found:
        return system.finding("EV02", Verdict.NOT_RUN, "No gradient attack of many steps at 8/255 or more was run.")
    weakest = max(found, key=lambda r: robust_accuracy(r).value)
    rate = robust_accuracy(weakest)
    figures: dict[str, JsonValue] = {"robust": rate.hits, "samples": rate.total}
    kept = f"{where(weakest.cell)} leaves the undefended classifier {rate.value:.1%} of {rate.total:,} images"
    if rate.interval()[0] > UNDEFENDED_AT_MOST:
        return system.finding("EV02", Verdict.FAIL, f"{kept}: it should leave none.", figures, [weakest.cell.key()])
    if rate.value > UNDEFENDED_AT_MOST:
        return system.finding("EV02", Verdict.WARN, f"{kept}, where next to none is usual.", figures)
    return system.finding("EV02", Verdict.PASS, f"At most: {kept}.", figures)


def _large(result: CellResult) -> bool:
    threat = attack_of(result.cell).threat
    return threat.eps >= (8 / 255 if threat.norm is Norm.LINF else 0.5) - 1e-9


def held_out(system: System) -> Finding:
    """EV03: attacks that a defence may have been trained on do not look much weaker than others."""
    gaps = [gap for result in system.attacked for gap in _gaps(system, result)]
    if not gaps:
        says = "No attack besides FGSM and PGD was run at the same level and size."
        return system.finding("EV03", Verdict.NOT_RUN, says)
    what, gap = max(gaps, key=lambda each: each[1].difference)
    told = f"{what}: {gap.difference * 100:+.1f} points for the usual attack, on {gap.total:,} images"
    figures: dict[str, JsonValue] = {"gap": round(gap.difference, 4), "samples": gap.total}
    if gap.interval()[0] > HELD_OUT_GAP:
        return system.finding("EV03", Verdict.FAIL, f"{told}: the defence knows its training attacks.", figures)
    if gap.difference > HELD_OUT_GAP:
        return system.finding("EV03", Verdict.WARN, f"{told}.", figures)
    return system.finding("EV03", Verdict.PASS, f"No other attack is much stronger. Most: {told}.", figures)


def _gaps(system: System, usual: CellResult) -> Iterator[tuple[str, Paired]]:
    attack = attack_of(usual.cell)
    if attack.method not in TRAINED_ON or usual.cell.after:
        return
    for other in system.attacked:
        rival = attack_of(other.cell)
        built_alike = (other.cell.knowledge, other.cell.sources) == (usual.cell.knowledge, usual.cell.sources)
        same = built_alike and rival.threat == attack.threat
        if same and rival.method not in TRAINED_ON and not noise(rival):
            what = f"{where(usual.cell)} against {rival.method}"
            yield what, paired(answered_right(usual), answered_right(other))


def collapsed(system: System) -> Finding:
    """EV05: not every image gets the same answer."""
    if system.clean is None or not system.clean.ids:
        return system.finding("EV05", Verdict.NOT_RUN, "The system was not judged without attack.")
    answer, count = Counter(system.clean.clean.predicted).most_common(1)[0]
    n = len(system.clean.ids)
    usual = Counter(system.clean.labels).most_common(1)[0][1]
    says = f"{count / n:.0%} of {n:,} images get one answer, class {answer}; the largest class holds {usual / n:.0%}."
    bad = one_answer(count / n, usual / n)
    figures: dict[str, JsonValue] = {"answer": answer, "images": count, "samples": n}
    return system.finding("EV05", Verdict.FAIL if bad else Verdict.PASS, says, figures)


def transfer_failure(book: Book, system: System) -> Finding:
    """AT04: a figure does not rest on examples that fool what was attacked and not what is judged."""
    twin = book.undefended_twin(system)
    if system.undefended:
        says = "The attacker attacks what is judged: nothing has to carry over."
        return system.finding("AT04", Verdict.PASS if system.attacked else Verdict.NOT_RUN, says)
    gray = [(r, other) for r in system.at(Knowledge.GRAY) for other in _same_attack(twin, r)]
    if not gray:
        says = "No gray-box attack was run on this system and on its undefended classifier."
        return system.finding("AT04", Verdict.NOT_RUN, says)
    result, other = max(gray, key=lambda pair: sum(_carried_over_not(*pair)))
    lost = sum(_carried_over_not(result, other))
    fooled = sum(outcome is Outcome.BROKEN for outcome in other.outcomes())
    figures: dict[str, JsonValue] = {"fooled_stand_in": fooled, "system_held": lost}
    told = f"{where(result.cell)}: of {fooled:,} images that fool the bare classifier, the system holds {lost:,}"
    if lost and not system.at(*TOUCHING):
        says = f"{told}. The attack worked, on something else than what is judged."
        return system.finding("AT04", Verdict.WARN, says, figures)
    says = f"{told}; attacks on the system itself were run beside it."
    return system.finding("AT04", Verdict.PASS, says if lost else f"{told}.", figures)


def _same_attack(twin: System | None, result: CellResult) -> list[CellResult]:
    return [other for other in twin.at(Knowledge.GRAY) if other.cell.attack == result.cell.attack] if twin else []


def _carried_over_not(result: CellResult, twin: CellResult) -> list[bool]:
    pairs = zip(result.outcomes(), twin.outcomes(), strict=True)
    return [mine is Outcome.SURVIVED and theirs is Outcome.BROKEN for mine, theirs in pairs]


def left_threat_model(system: System) -> Finding:
    """AT08: every attack ran, and kept to its rules."""
    failed = [result for result in system.attacked if any(result.failed)]
    if not system.attacked:
        return system.finding("AT08", Verdict.NOT_RUN, "No attack was run.")
    if not failed:
        return system.finding("AT08", Verdict.PASS, "Every attack ran on every image and kept within its ball.")
    undecided = {(norm, eps): w.outcomes().count(Outcome.UNKNOWN) for norm, eps, w in system.worst_cases(None)}
    worst = max(failed, key=lambda result: sum(result.failed))
    why = f" It says: {worst.notes[0]}." if worst.notes else ""
    told = f"{where(worst.cell)} failed on {images(sum(worst.failed))} of {len(worst.ids):,}.{why}"
    cells = tuple(result.cell.key() for result in failed)
    if any(undecided.values()):
        open_ = ", ".join(f"{size(*place)}: {count:,}" for place, count in undecided.items() if count)
        says = f"{told} Images on which no attack ran at all ({open_}) are unknown, not robust."
        return system.finding("AT08", Verdict.FAIL, says, {"failed": sum(worst.failed)}, cells)
    says = f"{told} Other attacks ran on these images and decide the worst case."
    return system.finding("AT08", Verdict.WARN, says, {"failed": sum(worst.failed)})
