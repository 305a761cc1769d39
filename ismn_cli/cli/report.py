"""`ismn report`: stored cells as a table. Starts at once: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, result, say, show
from ismn_cli.cli.options import ReportFormat, StoreDir, examples, listed

if TYPE_CHECKING:
    from ismn_cli.core.records import CellResult
    from ismn_cli.core.runs import Run
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.table import Report

HELP = "Compare defences over all stored runs."
EXAMPLES = examples(
    "ismn report",
    "ismn report --format markdown",
    "ismn report --format html -o report.html",
    "ismn report --format latex -o table.tex",
    "ismn report --run latest --format csv -o results.csv",
    "ismn report --compare ismn,none",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", help=HELP, epilog=EXAMPLES)(report)


def _schema(wanted: bool) -> None:
    if wanted:
        from ismn_cli.reporting.schema import stored

        result(stored())
        raise typer.Exit


def report(
    form: ReportFormat = "rich",
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
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", callback=_schema, is_eager=True, help="Print the JSON Schema of --format json, and exit."
        ),
    ] = False,
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
    if form == "html" and two is None:
        hand_over(_page(place, runs), output)
    else:
        deliver(_table(place, runs, stored_results(place, runs), two), form, output)


def _page(store: Store, runs: list[Run]) -> str:
    """Return the page with all that belongs to the table; each cell is read once and let go."""
    from ismn_cli.reporting.html.cells import Reduced
    from ismn_cli.reporting.html.page import Evidence, text

    results = Reduced(stored_results(store, runs))
    table = _table(store, runs, results, None)
    return text(table, Evidence(runs, results.cells))


def _two(compare: str) -> tuple[str, str]:
    from ismn_cli.core.errors import UsageError

    names = listed([compare]) or []
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError(f"--compare takes two systems, not '{compare}'.", "Write, for example: --compare ismn,none")
    return names[0], names[1]


def _table(store: Store, runs: list[Run], results: Iterable[CellResult], two: tuple[str, str] | None) -> Report:
    from ismn_cli.core.findings import read_audit
    from ismn_cli.reporting.comparison_table import comparison_report
    from ismn_cli.reporting.paired_table import paired_report

    if two:
        return paired_report(results, *two)
    audits = [audit for run in runs if (audit := read_audit(run.folder))]
    unreliable = {key: codes for audit in audits for key, codes in audit.unreliable().items()}
    beside = {name for run in runs if (name := run.record.recipe.get("stand_in_for"))}
    stand_in = str(beside.pop()) if len(beside) == 1 else None
    return comparison_report(results, ceilings=store.ceilings_of, unreliable=unreliable, stand_in_for=stand_in)


def stored_results(store: Store, runs: Iterable[Run]) -> Iterator[CellResult]:
    """Yield the cells of ``runs``, each once, read one at a time; say at the end if there are fewer than there were."""
    keys, found = dict.fromkeys(key for run in runs for key in run.record.cells), 0
    for _, cell in store.cells(keys):
        if cell is not None:
            found += 1
            yield cell
    if found < len(keys):
        note(f"{len(keys) - found} cells are missing in the store; repeat their runs to have them back.")
    if not found:
        note("no results are stored yet. Make some: ismn run quickstart")


def deliver(table: Report, form: str, output: Path | None) -> None:
    """Write a report in a format of `ismn_cli.reporting.render.FORMATS` to a file, else to stdout."""
    if form == "rich" and output is None:
        show(table)
    else:
        hand_over(_drawn(table) if form == "rich" else _text(table, form), output)


def hand_over(text: str, output: Path | None) -> None:
    """Write ``text`` to a file, else to stdout."""
    from ismn_cli.core.storage import write_text

    if output is None:
        result(text)
    else:
        write_text(output, text)
        say(f"report: {output}")


def _text(table: Report, form: str) -> str:
    from ismn_cli.reporting.render import render_text

    return render_text(table, form)


def _drawn(table: Report) -> str:
    """Return the table as plain text, as wide as it likes."""
    from io import StringIO

    from rich.console import Console

    from ismn_cli.reporting.render import render

    stream = StringIO()
    Console(file=stream, width=160, highlight=False).print(render(table, "rich"))
    return stream.getvalue()
