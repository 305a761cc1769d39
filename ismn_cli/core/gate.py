"""The gate: whether a stored run clears the bars that were set for it, so that robustness can be a check of a build.

A figure that cannot be trusted is neither passed nor failed, whatever it is: the run is not whole, an attack failed on
samples that nothing else settled, or an audit found it unreliable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.gate_evidence import Evidence, Figure, System
from ismn_cli.core.gate_readings import read_drop, read_level
from ismn_cli.core.gate_rules import Bound, Rule
from ismn_cli.core.paired import check_same, paired
from ismn_cli.core.specs import Cell, format_eps
from ismn_cli.core.worst_case import attack_of

PASSED, FAILED, UNRELIABLE = 0, 1, 3
"""Exit codes; 2 is left to bad input."""
SAME_EPS = 1e-9
_ALIKE = "Measure both with one recipe on the same images, the baseline first."


class Ruling(StrEnum):
    """What became of one case."""

    PASSED = "passed"
    FAILED = "failed"
    UNRELIABLE = "unreliable"


@dataclass(frozen=True)
class Terms:
    """What is asked of a run."""

    rules: tuple[Rule, ...]
    sizes: tuple[float, ...] = ()
    """Sizes to look at, pixels in [0, 1]; empty for every one that was run."""
    confident: bool = False
    """Whether the worse end of the 95 % interval has to clear the bar, rather than the figure itself."""
    audited: bool = False
    """Whether an audit has to vouch for the figures."""


@dataclass(frozen=True)
class Case:
    """One figure of one system against one rule."""

    system: str
    """Empty where the run itself is judged."""
    figure: str
    rule: Rule | None
    measured: str
    ruling: Ruling
    says: str
    """The figures that decide, and why they cannot be trusted where that is so."""
    over: tuple[str, ...] = ()
    """The attacks that a worst case is over: robust means no more than having outlived these."""
    seconds: float = 0.0
    """How long the attacks and the system's answers took."""

    @property
    def asked(self) -> str:
        """Return the bound in words."""
        return self.rule.asked if self.rule else "no cell missing"

    @property
    def is_drop(self) -> bool:
        """Whether a baseline is compared with."""
        return self.rule is not None and self.rule.bound is Bound.DROP


@dataclass(frozen=True)
class Gate:
    """What a gate found."""

    run: str
    baseline: str
    """Empty without one."""
    finished: str
    cases: tuple[Case, ...]

    @property
    def code(self) -> int:
        """Return the exit code: a figure that cannot be trusted outweighs one that misses its bar."""
        rulings = {case.ruling for case in self.cases}
        if Ruling.UNRELIABLE in rulings or not rulings:
            return UNRELIABLE
        return FAILED if Ruling.FAILED in rulings else PASSED


def check_terms(terms: Terms, baseline: bool) -> None:
    """Raise UsageError for terms that ask nothing, or hold something that would change nothing."""
    drops = any(rule.bound is Bound.DROP for rule in terms.rules)
    if drops and not baseline:
        raise UsageError("--max-drop needs a run to compare with.", "Add --baseline RUN; see `ismn list runs`.")
    if baseline and not drops:
        raise UsageError("--baseline alone decides nothing.", "Add, for example: --max-drop 0.01")
    if not terms.rules:
        raise UsageError("Nothing is asked of the run.", "Write, for example: ismn gate --min robust_accuracy=0.45")
    if terms.sizes and not any(rule.metric.attacked for rule in terms.rules):
        raise UsageError("--eps chooses among attacks, and no figure under attack is asked for.", "Leave it out.")


def judge(run: Evidence, terms: Terms, baseline: Evidence | None = None, only: Sequence[str] = ()) -> Gate:
    """Return a case for each rule, system and size; a case for each thing missing where a run is not whole.

    ``only`` names systems. Raises UsageError: terms that nothing in the run answers to, a baseline that differs.
    """
    check_terms(terms, baseline is not None)
    problems = (*run.problems, *(baseline.problems if baseline else ()))
    if problems:
        cases = tuple(Case("", "whole run", None, "incomplete", Ruling.UNRELIABLE, says) for says in problems)
    else:
        names = _chosen(run, only)
        _check_run(run, [run.systems[name] for name in names], terms)
        bench = _Bench(run, terms, baseline)
        cases = tuple(case for name in names for case in bench.cases(name))
    return Gate(run.run, baseline.run if baseline else "", run.finished, cases)


def _chosen(run: Evidence, only: Sequence[str]) -> list[str]:
    for name in only:
        if name not in run.systems:
            raise unknown_name(f"system in run '{run.run}'", name, run.systems)
    return list(dict.fromkeys(only or run.systems))


def _check_run(run: Evidence, systems: Sequence[System], terms: Terms) -> None:
    """Raise UsageError for sizes and levels at which no system of the run was attacked."""
    if not any(rule.metric.attacked for rule in terms.rules):
        return
    sizes = sorted({size for system in systems for size in system.sizes()})
    for eps in terms.sizes:
        if not any(_same(eps, size) for size in sizes):
            known = ", ".join(map(format_eps, sizes)) or "none"
            raise UsageError(f"Run '{run.run}' has no attack at eps {format_eps(eps)}.", f"Its sizes: {known}.")
    attacked = [result.cell for system in systems if system.trials for result in system.trials.results]
    levels = list(dict.fromkeys(cell.knowledge for cell in attacked))
    if not levels:
        raise UsageError(f"No system was attacked in run '{run.run}'.", "Judge a run of `ismn attack`.")
    for rule in terms.rules:
        if rule.level is not None and rule.level not in levels:
            raise UsageError(f"Run '{run.run}' has no {rule.level} attacks.", f"Its levels: {', '.join(levels)}.")


@dataclass(frozen=True)
class _Bench:
    """Judges the systems of one run."""

    run: Evidence
    terms: Terms
    baseline: Evidence | None

    def cases(self, name: str) -> Iterator[Case]:
        for rule in self.terms.rules:
            for eps in self._sizes(name, rule):
                yield self._case(name, rule, eps)

    def _sizes(self, name: str, rule: Rule) -> Sequence[float | None]:
        if not rule.metric.attacked:
            return (None,)
        tried = self.run.systems[name].sizes()
        wanted = [next((size for size in tried if _same(eps, size)), eps) for eps in self.terms.sizes]
        return list(dict.fromkeys(wanted)) or tried or (None,)

    def _case(self, name: str, rule: Rule, eps: float | None) -> Case:
        title = rule.figure if eps is None else f"{rule.figure} {format_eps(eps)}"
        figure = self.run.systems[name].figure(rule, eps)
        if figure is None:
            return Case(name, title, rule, "not run", Ruling.UNRELIABLE, "Nothing was measured for this figure.")
        doubts = list(_doubts(figure, self.run, self.terms.audited))
        seconds = figure.seconds
        if rule.bound is Bound.DROP and self.baseline is not None:
            before = self._before(self.baseline, name, rule, eps)
            _check_alike(figure, before)
            doubts += [f"baseline: {doubt}" for doubt in _doubts(before, self.baseline, self.terms.audited)]
            seconds += before.seconds
            cleared, measured, says = read_drop(rule, paired(before.right, figure.right), self.terms.confident)
        else:
            cleared, measured, says = read_level(rule, figure.rate, self.terms.confident)
        if doubts:
            says = f"Cannot be trusted: {'; '.join(dict.fromkeys(doubts))}. As measured: {says}"
        ruling = Ruling.UNRELIABLE if doubts else Ruling.PASSED if cleared else Ruling.FAILED
        return Case(name, title, rule, measured, ruling, says, _over(figure), seconds)

    def _before(self, baseline: Evidence, name: str, rule: Rule, eps: float | None) -> Figure:
        if name not in baseline.systems:
            raise unknown_name(f"system in the baseline '{baseline.run}'", name, baseline.systems)
        found = baseline.systems[name].figure(rule, eps)
        if found is None:
            at = "" if eps is None else f" at eps {format_eps(eps)}"
            raise UsageError(f"The baseline '{baseline.run}' has no {rule.figure} of '{name}'{at}.", _ALIKE)
        return found


def _doubts(figure: Figure, run: Evidence, audited: bool) -> Iterator[str]:
    if not figure.rate.total:
        yield "there is no image that it could be a share of"
    if figure.undecided:
        yield f"an attack failed on {figure.undecided} images that no other attack broke: whether they hold is unknown"
    yield from run.doubts(figure.cells, audited)


def _over(figure: Figure) -> tuple[str, ...]:
    cells = [result.cell for result in figure.cells if result.cell.attack is not None]
    return tuple(dict.fromkeys(f"{cell.knowledge} {attack_of(cell).method}" for cell in cells))


def _check_alike(figure: Figure, before: Figure) -> None:
    """Raise UsageError where two figures are not of the same images under the same attacks."""
    try:
        check_same(before.cells[0].cell.samples, figure.cells[0].cell.samples)
    except UsageError as error:
        raise UsageError(f"{error.message} The first is the baseline's.", _ALIKE) from None
    mine, theirs = _attacks(figure), _attacks(before)
    if mine != theirs:
        told = [f"only in the {who}: {', '.join(found)}" for who, found in _sides(mine, theirs) if found]
        raise UsageError(f"A drop needs the same threat model: {'; '.join(told)}.", _ALIKE)


def _sides(mine: set[str], theirs: set[str]) -> Iterator[tuple[str, list[str]]]:
    yield "run", sorted(mine - theirs)
    yield "baseline", sorted(theirs - mine)


def _attacks(figure: Figure) -> set[str]:
    return {_attack(result.cell) for result in figure.cells if result.cell.attack is not None}


def _attack(cell: Cell) -> str:
    """Name an attack with all that its strength depends on, but for what follows the system: draws and their mean."""
    attack = attack_of(cell)
    settings = [f"{name}={value}" for name, value in sorted(attack.params.items())]
    settings += ["targeted"] * attack.threat.targeted
    settings += [f"from {source.name}" for source in cell.sources]
    return " ".join([cell.knowledge, attack.label(), *settings])


def _same(eps: float, other: float) -> bool:
    return abs(eps - other) <= SAME_EPS
