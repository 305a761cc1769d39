"""Stored cells, opened at the page that a check needs: systems, levels, sizes, and what became of each sample.

No torch: the audit of stored cells starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from ismn_cli.core.catalogue import ATTACKS
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Norm, Subject, format_eps
from ismn_cli.core.worst_case import Trials, WorstCase, attack_of, trials

LEVELS: Mapping[Knowledge, str] = {
    Knowledge.GRAY: "gray-box",
    Knowledge.BLACK: "black-box",
    Knowledge.WHITE: "white-box",
    Knowledge.ADAPTIVE: "adaptive",
}
TOUCHING = (Knowledge.WHITE, Knowledge.ADAPTIVE)
"""Levels whose attacker works on the defended system itself."""
UNDEFENDED = "none"


@dataclass(frozen=True)
class System:
    """One system on one set of images: its cell without attack, and those under attack."""

    label: str
    subject: Subject
    classifier: Subject
    clean: CellResult | None
    attacked: tuple[CellResult, ...]

    @property
    def undefended(self) -> bool:
        """Whether this is the bare classifier itself: what a gray-box attacker holds is what is judged."""
        return self.subject.name == UNDEFENDED

    @property
    def images(self) -> str:
        """The key of the images."""
        return next(r.cell.samples.key() for r in (self.clean, *self.attacked) if r is not None)

    @cached_property
    def trials(self) -> tuple[Trials, ...]:
        """All attacks side by side, a group for each norm."""
        return tuple(trials(self.attacked))

    def at(self, *levels: Knowledge) -> list[CellResult]:
        """Return the attacked cells of these knowledge levels."""
        return [result for result in self.attacked if result.cell.knowledge in levels]

    def worst_cases(self, level: Knowledge | None) -> Iterator[tuple[Norm, float, WorstCase]]:
        """Yield (norm, eps, worst case) of a level, or of all; breaks at smaller sizes count."""
        for group in self.trials:
            norm = attack_of(group.results[0].cell).threat.norm
            for eps in group.sizes():
                worst = group.worst_case(eps, level)
                if worst is not None:
                    yield norm, eps, worst


    def finding(
        self,
        code: str,
        verdict: Verdict,
        says: str,
        evidence: dict[str, JsonValue] | None = None,
        cells: Sequence[str] = (),
    ) -> Finding:
        """Return what a check says of this system."""
        return Finding(
            code=code, verdict=verdict, subject=self.label, says=says, evidence=evidence or {}, cells=tuple(cells)
        )


@dataclass(frozen=True)
class Book:
    """Everything that was stored of some runs."""

    systems: tuple[System, ...]

    def undefended_twin(self, system: System) -> System | None:
        """Return the bare classifier that ``system`` stands on, on the same images."""
        for other in self.systems:
            same = other.classifier == system.classifier and other.images == system.images
            if same and other.subject.name == UNDEFENDED:
                return other
        return None


def open_book(results: Sequence[CellResult]) -> Book:
    """Return ``results``, each cell once, by system."""
    distinct = {result.cell.key(): result for result in results}.values()
    groups: dict[tuple[str, str, str], list[CellResult]] = {}
    for result in distinct:
        cell = result.cell
        groups.setdefault((cell.defence.key(), cell.classifier.key(), cell.samples.key()), []).append(result)
    labels = _labels([group[0].cell for group in groups.values()])
    return Book(tuple(_system(label, group) for label, group in zip(labels, groups.values(), strict=True)))


def _system(label: str, group: Sequence[CellResult]) -> System:
    cell = group[0].cell
    clean = next((result for result in group if result.attacked is None), None)
    attacked = tuple(result for result in group if result.attacked is not None)
    return System(label, cell.defence, cell.classifier, clean, attacked)


def _labels(cells: Sequence[Cell]) -> list[str]:
    """Return a name for each system; weights and images are told only where names alone leave it open."""
    names = [cell.defence.name for cell in cells]
    if len(set(names)) == len(names):
        return names
    return [
        f"{cell.defence.name} {(cell.defence.weights or cell.classifier.weights)[:8]} "
        f"on {cell.samples.count:,} of {cell.samples.dataset}"
        for cell in cells
    ]


def where(cell: Cell) -> str:
    """Return what was done to the images, such as "white-box pgd 8/255"."""
    transferred = " (transferred)" if cell.sources else ""
    return f"{LEVELS[cell.knowledge]} {attack_of(cell).label()}{transferred}"


def size(norm: Norm, eps: float) -> str:
    """Return eps as it is written; the norm is told where it is not L-inf."""
    return format_eps(eps) if norm is Norm.LINF else f"{norm} {format_eps(eps)}"


def iterated(attack: AttackSpec) -> bool:
    """Whether the attack follows each image's gradients for several steps."""
    entry = ATTACKS.get(attack.method)
    steps = attack.params.get("steps", 1)
    many = isinstance(steps, int) and steps > 1
    return entry is not None and entry.gradient and not entry.universal and many


def single_step(attack: AttackSpec) -> bool:
    """Whether the attack is FGSM."""
    return attack.method == "fgsm"


def noise(attack: AttackSpec) -> bool:
    """Whether the attack is chance alone: a control, of which no success is expected."""
    entry = ATTACKS.get(attack.method)
    return entry is not None and entry.expects is None


def gradient_free(attack: AttackSpec) -> bool:
    """Whether the attack searches by answers alone."""
    entry = ATTACKS.get(attack.method)
    return entry is not None and not entry.gradient and not noise(attack)


def robust(outcomes: Sequence[Outcome]) -> list[bool]:
    """Return per sample whether it was answered right before the attack and after it."""
    return [outcome is Outcome.SURVIVED for outcome in outcomes]
