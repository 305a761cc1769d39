"""`ismn audit`: can the figures of a run be believed?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import draw, note, result, results_apart, say
from ismn_cli.cli.options import DataDir, Defences, Device, StoreDir, examples, listed
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.findings import Audit, Finding
    from ismn_cli.core.runs import Run
    from ismn_cli.core.store import Store

HELP = (
    "Say whether the figures of a run can be believed: the field's checklists, asked of its stored cells, its attacks "
    "and its systems. Exit code 1 if a check fails."
)
EXAMPLES = examples(
    "ismn audit",
    "ismn audit --records",
    "ismn audit --run latest --defence ismn --limit 50",
    "ismn audit --format markdown -o audit.md",
)
FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit", help=HELP, epilog=EXAMPLES)(audit)


def audit(
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Which run. (default: the newest with attacks)")
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="The stored cells only: nothing is run again.")
    ] = False,
    defence: Defences = None,
    check: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE[,CODE...]", help="Show these checks only, such as GM03 or zero-gradient."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images to probe systems and attacks on. (default: 100)")
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="rich, markdown or json.")] = "rich",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file. (default: stdout)")
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Audit a run."""
    from ismn_cli.core.checks import find_check
    from ismn_cli.core.findings import Verdict, worst
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.findings_table import FORMATS

    _check_options(form, FORMATS, records, limit)
    codes = [find_check(name).code for name in listed(check) or ()]
    place = Store.open(store)
    chosen = _run(place, run)
    note(f"run {chosen.record.id}")
    found = _audited(chosen, place, data_dir, device, listed(defence), limit, records)
    findings = [f for f in found.findings if not codes or f.code in codes]
    _deliver(findings, form, output, f"Audit of {chosen.record.id}")
    if worst(findings) is Verdict.FAIL:
        raise typer.Exit(FAILED)


def _check_options(form: str, formats: Sequence[str], records: bool, limit: int | None) -> None:
    from ismn_cli.core.errors import UsageError, unknown_name

    if form not in formats:
        raise unknown_name("format", form, formats)
    if records and limit is not None:
        raise UsageError("--limit is the number of images probed; with --records nothing is.", "Leave one of them out.")


def _run(store: Store, name: str | None) -> Run:
    """Return the run called ``name``, or the newest with attacks. Raises UsageError where there is none."""
    from ismn_cli.core.errors import UsageError

    if name is not None and name != "latest":
        return store.run(name)
    found = next((run for run in store.runs() if run.record.kind != "train" and run.record.cells), None)
    if found is None:
        raise UsageError(f"There is no run with attacks in '{store.root}' yet.", "Make one: ismn run quickstart")
    return found


@results_apart()
def _audited(
    run: Run,
    store: Store,
    data_dir: Path | None,
    device: str | None,
    defences: list[str] | None,
    limit: int | None,
    records: bool,
) -> Audit:
    from ismn_cli.stages.audit import IMAGES, audit_run

    with Display() as display:
        # Examples made elsewhere come without an attack that could be run again.
        images = 0 if records or run.record.kind == "score" else limit or IMAGES
        return audit_run(run, store, data_dir, device or "auto", defences, images, display.matrix)


def _deliver(findings: Sequence[Finding], form: str, output: Path | None, title: str) -> None:
    from ismn_cli.core.storage import write_text
    from ismn_cli.reporting.findings_table import findings_text, render_findings

    if form == "rich" and output is None:
        draw(render_findings(findings, "rich", title=title))
        return
    text = findings_text(findings, "markdown" if form == "rich" else form, title=title)
    if output is None:
        result(text)
    else:
        write_text(output, text)
        say(f"audit: {output}")
