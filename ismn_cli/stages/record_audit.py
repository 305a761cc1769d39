"""The audit of what a run has stored: nothing of it is run again but its attacks, on victims that are known to fall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ismn_cli.audit.book import System, iterated, open_book
from ismn_cli.audit.records import record_findings
from ismn_cli.core.checks import CHECKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Audit, Finding, Verdict, read_audit, write_audit
from ismn_cli.core.records import CellResult
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import AttackSpec, Knowledge, Norm
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import attack_of
from ismn_cli.stages.self_test import self_tests

OF_A_RUN = tuple(code for code in CHECKS if not code.startswith("MD"))
"""The checks that are asked of a run; those of a model alone are the doctor's."""


def audit_records(store: Store, run: Run, results: Sequence[CellResult]) -> Audit:
    """Audit what is stored of a run, and keep the outcome beside it.

    An audit of the same cells that is already there is kept: it may say more.
    """
    keys = tuple(result.cell.key() for result in results)
    before = read_audit(run.folder)
    if before is not None and before.cells == keys:
        return before
    findings = stored_findings(store, results)
    findings += not_run(findings, open_book(results).systems, probed=False)
    audit = Audit(run=run.record.id, cells=keys, findings=tuple(answered(findings)))
    write_audit(run.folder, audit)
    return audit


def stored_findings(store: Store, results: Sequence[CellResult]) -> list[Finding]:
    """Return what stored cells give away, and how their attacks did in their self-tests."""
    cells = [result.cell for result in results]
    return [*record_findings(results, ceilings_of(store, results)), *self_tests(store, cells)]


def stored_results(store: Store, run: Run) -> list[CellResult]:
    """Return the cells of a finished matrix. Raises UsageError where there are none, or some are missing."""
    if run.record.kind == "train" or not run.record.cells:
        raise UsageError(f"Run {run.record.id} has no cells to audit.", "Make some: ismn run quickstart")
    found = [cell for key in run.record.cells if (cell := store.cell(key))]
    if len(found) < len(run.record.cells):
        missing = len(run.record.cells) - len(found)
        raise UsageError(f"{missing} cells of run {run.record.id} are missing in the store.", "Repeat the run first.")
    return found


def ceilings_of(store: Store, results: Iterable[CellResult]) -> dict[tuple[str, Norm, float], float]:
    """Return the stored ceilings at the sizes of ``results``, for the checks."""
    found = {}
    for result in results:
        if result.cell.attack is not None:
            threat, samples = result.cell.attack.threat, result.cell.samples
            ceiling = store.ceiling(samples, threat.norm, threat.eps)
            if ceiling is not None:
                found[samples.key(), threat.norm, threat.eps] = ceiling.value
    return found


def strongest(system: System) -> tuple[Knowledge, AttackSpec] | None:
    """Return the attack of many steps on the system itself that the probes look at, with its level.

    White-box before adaptive, at the smallest size: there a defence has most to lose.
    """
    for level in (Knowledge.WHITE, Knowledge.ADAPTIVE, *([Knowledge.GRAY] if system.undefended else [])):
        found = [attack_of(r.cell) for r in system.at(level) if iterated(attack_of(r.cell)) and not all(r.failed)]
        if found:
            return level, min(found, key=lambda spec: spec.threat.eps)
    return None


def concerns(finding: Finding, systems: Sequence[System]) -> bool:
    """Whether ``finding`` is about one of ``systems``."""
    # A name of the user's own may have a comma in it.
    return any(finding.subject == s.label or finding.subject.startswith(f"{s.label}, ") for s in systems)


def answered(findings: Sequence[Finding]) -> list[Finding]:
    """Return ``findings`` without those that a check could not be run in one way, where it was run in another."""
    run = {_asked(finding) for finding in findings if finding.verdict is not Verdict.NOT_RUN}
    return [f for f in findings if f.verdict is not Verdict.NOT_RUN or _asked(f) not in run]


def _asked(finding: Finding) -> tuple[str, str]:
    return finding.code, finding.subject.split(", ")[0]


def not_run(findings: Sequence[Finding], systems: Sequence[System], probed: bool) -> Iterator[Finding]:
    """Yield for each system the checks that said nothing of it: they have not passed."""
    for system in systems:
        said = {"AT07"} | {finding.code for finding in findings if concerns(finding, [system])}
        for code in OF_A_RUN:
            if code not in said:
                yield system.finding(code, Verdict.NOT_RUN, _why_not(code, system, probed))


def _why_not(code: str, system: System, probed: bool) -> str:
    if code == "EV02":
        return "Asked of the undefended classifier only."
    if code.startswith("DT") or code == "CL02":
        return "The system has no detector that refuses."
    if not probed:
        return "Nothing was run again for this audit: ismn audit."
    if code == "RN01":
        return "The system does not draw at random."
    if strongest(system) is None:
        return "No gradient attack of many steps was run on the system itself: --knowledge white."
    return "No attack of that kind was run on the system."
