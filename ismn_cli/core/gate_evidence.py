"""What a gate judges: the figures of a stored run, what they rest on, and why they may not be believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ismn_cli.core.checks import CHECKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import AUDIT, Audit, Verdict, read_audit
from ismn_cli.core.gate_rules import Rule
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.runs import Run
from ismn_cli.core.storage import is_there
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import Trials, WorstCase, trials

LATEST = "latest"
MEASURING = ("attack", "defend", "run", "score")
"""Kinds of runs that measure systems."""
_SETTLED = (Outcome.BROKEN, Outcome.WRONG_CLEAN)


@dataclass(frozen=True)
class Figure:
    """A figure of one system, and what it rests on."""

    rate: Rate
    right: tuple[bool, ...]
    """Per sample; empty for a metric that has no such column."""
    cells: tuple[CellResult, ...]
    undecided: int
    """Samples on which an attack of that size failed, and that no other attack broke."""

    @property
    def seconds(self) -> float:
        """How long the attacks and the system's answers took."""
        return sum(cell.craft_seconds + cell.judge_seconds for cell in self.cells)


@dataclass(frozen=True)
class System:
    """One system of a run: its cell without attack, and its attacks side by side; None where there are none."""

    clean: CellResult | None
    trials: Trials | None

    def sizes(self) -> list[float]:
        """Return every eps that was tried, in ascending order."""
        return self.trials.sizes() if self.trials else []

    def figure(self, rule: Rule, eps: float | None) -> Figure | None:
        """Return the figure that ``rule`` is about, at ``eps`` where it is one under attack; None if not measured."""
        metric = rule.metric
        if not metric.attacked:
            clean = self.clean
            return None if clean is None else Figure(metric.rate(clean), _right(rule, clean), (clean,), 0)
        worst = self.trials.worst_case(eps, rule.level) if self.trials and eps is not None else None
        if worst is None:
            return None
        return Figure(metric.rate(worst), _right(rule, worst), worst.cells, _undecided(worst))


@dataclass(frozen=True)
class Evidence:
    """A stored run as a gate sees it."""

    run: str
    finished: str
    """When; empty where it was not."""
    systems: Mapping[str, System]
    problems: tuple[str, ...]
    """Why the run is not whole: then none of its figures is judged."""
    audit: Audit | None
    audit_problem: str
    """Why there is no audit that can be used, or nothing."""
    audit_expected: bool
    """Whether there is a file that should be one."""

    def doubts(self, cells: Sequence[CellResult], required: bool) -> Iterator[str]:
        """Yield why figures that rest on ``cells`` cannot be trusted; ``required``: an audit has to vouch for them."""
        keys = {cell.cell.key() for cell in cells}
        if self.audit is None:
            if required or self.audit_expected:
                yield self.audit_problem
            return
        unseen = keys - set(self.audit.cells)
        if required and unseen:
            yield f"the audit of run '{self.run}' did not look at {len(unseen)} of the {len(keys)} cells used"
        for finding in self.audit.findings:
            if finding.verdict is Verdict.FAIL and keys & set(finding.cells):
                check = CHECKS.get(finding.code)
                yield f"{check.title if check else finding.code}, {finding.subject}: {finding.says.rstrip('.')}"


def find_run(store: Store, name: str) -> Run:
    """Return the run called ``name``, or the latest one that measured systems, finished or not.

    An unfinished run is not passed over: what it would have shown is what a gate is asked for. Raises UsageError.
    """
    if name != LATEST:
        run = store.run(name)
        if run.record.kind not in MEASURING:
            raise UsageError(f"Run '{name}' measured no system.", "Give a run of `ismn attack`, defend or run.")
        return run
    measured = [run for run in store.runs() if run.record.kind in MEASURING]
    if not measured:
        raise UsageError(f"No system has been measured in '{store.root}' yet.", "Make a run: ismn run quickstart")
    return measured[0]


def gather(store: Store, run: Run) -> Evidence:
    """Read what ``run`` has stored."""
    record = run.record
    found = [result for key in dict.fromkeys(record.cells) if (result := store.cell(key))]
    lost = len(set(record.cells)) - len(found)
    audit, problem = _audit(run)
    return Evidence(
        run=record.id,
        finished=record.finished or "",
        systems=_systems(record.id, found),
        problems=tuple(_problems(run, lost)),
        audit=audit,
        audit_problem=problem,
        audit_expected=is_there(run.folder / AUDIT),
    )


def _problems(run: Run, lost: int) -> Iterator[str]:
    record = run.record
    again = "Repeat its command: it continues where it stopped."
    if record.status != "done":
        yield f"Run '{record.id}' is not finished (its status is '{record.status}'). {again}"
    elif not record.cells:
        yield f"Run '{record.id}' has no results. {again}"
    if lost:
        yield f"Run '{record.id}' has lost {lost} of its {len(set(record.cells))} cells. {again}"


def _audit(run: Run) -> tuple[Audit | None, str]:
    name, again = f"the audit of run '{run.record.id}'", f"repeat it: ismn audit --run {run.record.id}"
    if not is_there(run.folder / AUDIT):
        return None, f"run '{run.record.id}' has not been audited; do so: ismn audit --run {run.record.id}"
    audit = read_audit(run.folder)
    if audit is None:
        return None, f"{name} cannot be read, so nobody knows what it found; {again}"
    if audit.run != run.record.id:
        return None, f"{name} is that of run '{audit.run}'; {again}"
    return audit, ""


def _systems(run: str, results: Iterable[CellResult]) -> dict[str, System]:
    by_name: dict[str, list[CellResult]] = {}
    for result in results:
        by_name.setdefault(result.cell.defence.name, []).append(result)
    return {name: _system(run, name, found) for name, found in by_name.items()}


def _system(run: str, name: str, results: Sequence[CellResult]) -> System:
    clean = [result for result in results if result.cell.attack is None]
    attacked = trials(results)
    if len(clean) > 1 or len(attacked) > 1:
        raise UsageError(f"Run '{run}' has several systems called '{name}'.", "Measure them in runs of their own.")
    return System(clean[0] if clean else None, attacked[0] if attacked else None)


def _right(rule: Rule, judged: CellResult | WorstCase) -> tuple[bool, ...]:
    return tuple(rule.metric.right(judged)) if rule.metric.right else ()


def _undecided(worst: WorstCase) -> int:
    if not worst.incomplete:
        return 0
    columns = zip(*(cell.outcomes() for cell in worst.cells[: worst.here]), strict=True)
    pairs = zip(worst.outcomes(), columns, strict=True)
    return sum(Outcome.UNKNOWN in tried and outcome not in _SETTLED for outcome, tried in pairs)
