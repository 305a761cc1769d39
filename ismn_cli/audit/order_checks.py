"""Checks of stored cells against each other: what knows more, steps more or may move further must do more harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from ismn_cli.audit.book import (
    LEVELS,
    TOUCHING,
    System,
    gradient_free,
    iterated,
    noise,
    single_step,
    size,
    where,
)
from ismn_cli.audit.compare import Missed, Rule, judged, missed
from ismn_cli.core.catalogue import ATTACKS
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Cell, Knowledge, Norm
from ismn_cli.core.worst_case import Trials, WorstCase, attack_of

_WEAKER = (
    (Knowledge.ADAPTIVE, Knowledge.WHITE),
    (Knowledge.ADAPTIVE, Knowledge.GRAY),
    (Knowledge.WHITE, Knowledge.GRAY),
)
"""Pairs of levels, the one that knows more first: it can do whatever the other can."""

KNOWLEDGE_ORDER = Rule(
    "EV04",
    "An attacker who knows more broke every image that one who knows less broke.",
    "{what}: the one who knows less broke {missed} of {total} that the one who knows more left (the other way round: "
    "{more}; p {p}). The figure of the one who knows more is too high there.",
)
STEPS = Rule(
    "GM01",
    "Attacks of many steps broke at least what FGSM's single step broke.",
    "{what}: one step broke {missed} of {total} that many steps left (the other way round: {more}; p {p}).",
    any_warns=False,
)
SIZES = Rule(
    "GM02",
    "A larger perturbation never did less harm on the whole.",
    "{what}: the smaller perturbation broke {missed} of {total} that the larger one left (the other way round: {more}; "
    "p {p}).",
    any_warns=False,
)
GRADIENT_FREE = Rule(
    "GM05",
    "Attacks with gradients found everything that attacks without gradients found.",
    "{what}: the attack without gradients broke {missed} of {total} that those with gradients left.",
    tolerance=0.002,
)
TRANSFER = Rule(
    "GM06",
    "Attacks on the system itself broke everything that examples made elsewhere broke.",
    "{what}: examples made on other systems broke {missed} of {total} that attacks on the system itself left.",
    tolerance=0.01,
)
NOISE = Rule(
    "GM07",
    "Random noise broke nothing that the attacks had left.",
    "{what}: noise broke {missed} of {total} that the attacks left.",
    tolerance=0.0,
)


def order_findings(system: System) -> Iterator[Finding]:
    """Yield EV04, GM01, GM02 and GM05 to GM07 on the stored cells of ``system``."""
    yield judged(
        KNOWLEDGE_ORDER,
        system.label,
        list(_levels(system)),
        "Attackers of one knowledge level only: there is nothing to set in order. Give several: "
        "--knowledge gray,white,adaptive.",
    )
    yield from _by_touch(STEPS, system, _steps, "FGSM and an attack of many steps were not run at one level and size.")
    yield from _by_touch(SIZES, system, _sizes, "No attack was run at several sizes on all images.")
    yield judged(
        GRADIENT_FREE,
        system.label,
        list(_against_the_rest(system, gradient_free)),
        "Square and a white-box or adaptive attack were not both run at one size.",
    )
    yield judged(
        TRANSFER,
        system.label,
        list(_against_the_rest(system, lambda attack: False, transferred=True)),
        "Transferred examples and a white-box or adaptive attack were not both run at one size.",
    )
    if any(noise(attack_of(result.cell)) for result in system.attacked):
        yield judged(NOISE, system.label, list(_against_the_rest(system, noise)), "No other attack was run.")


def _by_touch(
    rule: Rule, system: System, pairs: Callable[[Sequence[CellResult]], Iterator[Missed]], lacking: str
) -> Iterator[Finding]:
    """Yield the finding on attacks of the system itself, and on those that never saw it, which can only warn.

    Examples made on a bare classifier need not do more harm to a defence for being stronger against the classifier:
    there a wrong order says that a gray-box figure is no measure of robustness, not that the attack is broken.
    """
    own = [result for result in system.attacked if _on(system, result.cell)]
    others = [result for result in system.attacked if not _on(system, result.cell)]
    on_system, elsewhere = list(pairs(own)), list(pairs(others))
    if on_system or not elsewhere:
        yield judged(rule, system.label, on_system, lacking)
    if elsewhere:
        lenient = Rule(
            rule.code,
            rule.good,
            rule.bad + " The attacker never saw the defence: such figures say little about robustness.",
            rule.tolerance,
            rule.any_warns,
            at_most=Verdict.WARN,
        )
        yield judged(lenient, f"{system.label}, examples made elsewhere", elsewhere, lacking)


def _on(system: System, cell: Cell) -> bool:
    """Whether the attacker worked on what is judged."""
    if cell.knowledge is Knowledge.GRAY:
        return system.undefended
    return not cell.sources


def _levels(system: System) -> Iterator[Missed]:
    for strong, weak in _WEAKER:
        weaker = {(norm, eps): worst for norm, eps, worst in system.worst_cases(weak)}
        for norm, eps, worst in system.worst_cases(strong):
            if (norm, eps) in weaker:
                what = f"{size(norm, eps)}, {LEVELS[weak]} against {LEVELS[strong]}"
                yield missed(what, worst.outcomes(), weaker[norm, eps].outcomes(), _here(worst))


def _here(worst: WorstCase) -> list[str]:
    return [result.cell.key() for result in worst.cells[: worst.here]]


def _steps(results: Sequence[CellResult]) -> Iterator[Missed]:
    for many in results:
        if not iterated(attack_of(many.cell)):
            continue
        for one in results:
            independent = attack_of(one.cell) not in many.cell.after
            if single_step(attack_of(one.cell)) and _threat(one.cell) == _threat(many.cell) and independent:
                what = f"{where(many.cell)} against one step"
                yield missed(what, many.outcomes(), one.outcomes(), [many.cell.key()])


def _sizes(results: Sequence[CellResult]) -> Iterator[Missed]:
    groups: dict[tuple[object, ...], list[CellResult]] = {}
    for result in results:
        attack = attack_of(result.cell)
        key = (attack.method, attack.threat.norm, result.cell.knowledge, result.cell.sources, result.cell.seed)
        groups.setdefault(key, []).append(result)
    for group in groups.values():
        group.sort(key=lambda result: attack_of(result.cell).threat.eps)
        for small, large in pairwise(group):
            # An attack that takes over what a smaller one broke cannot do less: that is no evidence.
            if attack_of(small.cell) not in large.cell.after:
                what = f"{where(large.cell)} against {size(*_threat(small.cell)[:2])}"
                yield missed(what, large.outcomes(), small.outcomes(), [large.cell.key()])


def _against_the_rest(
    system: System, kind: Callable[..., bool], *, transferred: bool = False
) -> Iterator[Missed]:
    """Yield what the attacks of a kind found that white-box and adaptive attacks with gradients left."""
    chosen = [r for r in system.attacked if kind(attack_of(r.cell)) or (transferred and r.cell.sources)]
    for one in chosen:
        norm, eps, *_ = _threat(one.cell)
        rest = _gradient_worst(system, norm, eps)
        if rest is not None:
            yield missed(where(one.cell), rest.outcomes(), one.outcomes(), _here(rest))


def _gradient_worst(system: System, norm: Norm, eps: float) -> WorstCase | None:
    """Return the worst case over white-box and adaptive attacks with gradients at this size, or smaller ones."""
    levels = (*TOUCHING, Knowledge.GRAY) if system.undefended else TOUCHING
    mine = [result for result in system.at(*levels) if _follows(result.cell, norm)]
    return Trials(mine).worst_case(eps) if mine else None


def _follows(cell: Cell, norm: Norm) -> bool:
    attack = attack_of(cell)
    entry = ATTACKS.get(attack.method)
    return attack.threat.norm is norm and entry is not None and entry.gradient and not entry.universal


def _threat(cell: Cell) -> tuple[Norm, float, Knowledge, object]:
    attack = attack_of(cell)
    return attack.threat.norm, attack.threat.eps, cell.knowledge, cell.sources
