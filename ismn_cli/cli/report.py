"""`ismn report`: stored cells as a table. Starts at once: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, result, say, show
from ismn_cli.cli.options import StoreDir, examples, listed

if TYPE_CHECKING:
    from ismn_cli.core.records import CellResult
    from ismn_cli.core.runs import Run
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.table import Report

HELP = "Compare defences over all stored runs."
EXAMPLES = examples(
    "ismn report",
    "ismn report --format markdown",
    "ismn report --run latest --format csv -o results.csv",
    "ismn report --compare ismn,none",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", help=HELP, epilog=EXAMPLES)(report)


def report(
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="rich, markdown, csv or json.")] = "rich",
    run: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="ID", help="Only these runs. Repeatable. (default: all)"),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Compare two systems image by image: differences, McNemar's test, Holm."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file. (default: stdout)")
    ] = None,
    store: StoreDir = None,
) -> None:
    """Show the comparison table."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.render import FORMATS

    if form not in FORMATS:
        raise unknown_name("report format", form, FORMATS)
    two = _two(compare) if compare is not None else None
    place = Store.open(store)
    runs = [place.run(name) for name in run] if run else place.runs()
    results = stored_results(place, runs)
    if not results:
        note("no results are stored yet. Make some: ismn run quickstart")
    deliver(_table(place, runs, results, two), form, output)


def _two(compare: str) -> tuple[str, str]:
    from ismn_cli.core.errors import UsageError

    names = listed([compare]) or []
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError(f"--compare takes two systems, not '{compare}'.", "Write, for example: --compare ismn,none")
    return names[0], names[1]


def _table(store: Store, runs: list[Run], results: list[CellResult], two: tuple[str, str] | None) -> Report:
    from ismn_cli.core.findings import read_audit
    from ismn_cli.reporting.comparison_table import comparison_report
    from ismn_cli.reporting.paired_table import paired_report

    if two:
        return paired_report(results, *two)
    audits = [audit for run in runs if (audit := read_audit(run.folder))]
    unreliable = {key: codes for audit in audits for key, codes in audit.unreliable().items()}
    ceilings = store.ceilings_of(result.cell for result in results)
    beside = {name for run in runs if (name := run.record.recipe.get("stand_in_for"))}
    stand_in = str(beside.pop()) if len(beside) == 1 else None
    return comparison_report(results, ceilings=ceilings, unreliable=unreliable, stand_in_for=stand_in)


def stored_results(store: Store, runs: list[Run]) -> list[CellResult]:
    """Return the cells of ``runs``, each once; what the store has lost is left out with a remark."""
    keys = dict.fromkeys(key for run in runs for key in run.record.cells)
    found = [cell for key in keys if (cell := store.cell(key))]
    if len(found) < len(keys):
        note(f"{len(keys) - len(found)} cells are missing in the store; repeat their runs to have them back.")
    return found


def deliver(table: Report, form: str, output: Path | None) -> None:
    """Write a report in a format of `ismn_cli.reporting.render.FORMATS` to a file, else to stdout."""
    from ismn_cli.core.storage import write_text

    text = _drawn(table) if form == "rich" and output else _text(table, form)
    if output is not None:
        write_text(output, text)
        say(f"report: {output}")
    elif form == "rich":
        show(table)
    else:
        result(text)


def _text(table: Report, form: str) -> str:
    from ismn_cli.reporting.render import render_text

    return "" if form == "rich" else render_text(table, form)


def _drawn(table: Report) -> str:
    """Return the table as plain text, as wide as it likes."""
    from io import StringIO

    from rich.console import Console

    from ismn_cli.reporting.render import render

    stream = StringIO()
    Console(file=stream, width=160, highlight=False).print(render(table, "rich"))
    return stream.getvalue()
