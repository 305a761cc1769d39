"""Worst cases as rows of the table: the per-sample minimum over attacks, by knowledge level and over all levels.

A row per level stands where several attacks of that level ran at that size, or where attackers of several levels
are compared on the same images; a row over all levels where attackers of several levels ran on the defence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic

from ismn_cli.core import rates
from ismn_cli.core.specs import Cell, Knowledge, format_eps
from ismn_cli.core.worst_case import Attacked, Trials, WorstCase, attack_of, trials
from ismn_cli.reporting.table import Value, identity, one_line, outcome_figures, rate_figures

WORST = "worst case"
ALL = "all"
"""The knowledge of a worst case over all levels."""
_RATES = {
    "clean_accuracy": rates.right_from_the_start,
    "robust_accuracy": rates.robust_accuracy,
    "robust_rejected_success": rates.robust_or_refused,
    "success": rates.success_rate,
}


def worst_rows(results: Iterable[Attacked]) -> list[dict[str, Value]]:
    """Return the worst cases over ``results``, whole cells or reduced ones.

    A defence after the other, sizes ascending, all levels last.
    """
    distinct = {result.cell.key(): result for result in results}
    found = trials(distinct.values())
    levels: dict[str, set[Knowledge]] = {}
    for system in found:
        levels.setdefault(_place(system), set()).update(_levels(system))
    cases = [(len(levels[_place(system)]) > 1, case) for system in found for case in level_cases(system)]
    return [_row(case) for compared, case in cases if compared or case.worst.here > 1]


@dataclass(frozen=True)
class LevelCase(Generic[Attacked]):
    """The worst case of one knowledge level, or of "all"."""

    level: str
    worst: WorstCase[Attacked]


def level_cases(system: Trials[Attacked]) -> Iterator[LevelCase[Attacked]]:
    """Yield the worst cases of ``system``, sizes ascending: level by level, then over all where there are several."""
    for eps in system.sizes():
        found = [(level, system.worst_case(eps, level)) for level in _levels(system)]
        here = [LevelCase(level.value, worst) for level, worst in found if worst is not None]
        yield from here
        whole = system.worst_case(eps) if len(here) > 1 else None
        if whole is not None:
            yield LevelCase(ALL, whole)


def _levels(system: Trials[Attacked]) -> list[Knowledge]:
    run = {result.cell.knowledge for result in system.results}
    return [level for level in Knowledge if level in run]


def _place(system: Trials[Attacked]) -> str:
    """Return what systems have in common that are compared: images, classifier and norm."""
    cell = system.results[0].cell
    return f"{cell.samples.key()}:{cell.classifier.key()}:{attack_of(cell).threat.norm}"


def _row(case: LevelCase[Attacked]) -> dict[str, Value]:
    worst = case.worst
    cell = worst.cells[0].cell
    return {
        **identity(cell),
        "knowledge": case.level,
        **threat_columns(cell),
        "attacks": worst.here,
        **{k: v for name, measure in _RATES.items() for k, v in rate_figures(name, measure(worst)).items()},
        "broken_by": _broken_by(worst),
        **outcome_figures(worst),
        "failed": worst.incomplete,
    }


def threat_columns(cell: Cell) -> dict[str, Value]:
    """Return the columns that name a worst case at the norm and size of ``cell``."""
    threat = attack_of(cell).threat
    return {"attack": WORST, "norm": threat.norm.value, "eps": threat.eps, "level": format_eps(threat.eps)}


def _broken_by(worst: WorstCase[Attacked]) -> str:
    """Return {attack: images}; attacks are named with their level, and their size where it is a smaller one."""
    names: dict[str, int] = {}
    for position, count in worst.broken_by().items():
        cell = worst.cells[position].cell
        name = one_line(f"{cell.knowledge} {_method(cell, smaller=position >= worst.here)}")
        names[name] = names.get(name, 0) + count
    return json.dumps(names, ensure_ascii=False)


def _method(cell: Cell, *, smaller: bool) -> str:
    attack = attack_of(cell)
    size = f" {format_eps(attack.threat.eps)}" if smaller else ""
    return f"{attack.method}{' transferred' if cell.sources else ''}{size}"
