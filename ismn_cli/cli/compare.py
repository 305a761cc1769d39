"""`ismn compare`: two stored runs, image by image. Starts at once: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ismn_cli.cli.options import StoreDir, examples
from ismn_cli.cli.report import deliver, stored_results

HELP = "Compare two runs on the same images: paired differences with intervals and tests, and what flipped."
EXAMPLES = examples(
    "ismn compare attack-pgd-0f3b21aa latest",
    "ismn compare RUN_A RUN_B --format csv -o flips.csv",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", help=HELP, epilog=EXAMPLES)(compare)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, or latest; see `ismn list runs`.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to set against it.")],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="As in `ismn report`; csv and json have every id.")
    ] = "rich",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file. (default: stdout)")
    ] = None,
    store: StoreDir = None,
) -> None:
    """Compare two runs."""
    from ismn_cli.core.errors import UsageError, unknown_name
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.compare_table import compare_report
    from ismn_cli.reporting.render import FORMATS

    if form not in FORMATS:
        raise unknown_name("report format", form, FORMATS)
    place = Store.open(store)
    runs = place.run(first), place.run(second)
    if runs[0].record.id == runs[1].record.id:
        raise UsageError(f"{runs[0].record.id} is given twice: nothing differs.", "Give two: ismn list runs")
    results = [list(stored_results(place, [run])) for run in runs]
    deliver(compare_report((runs[0].record, runs[1].record), *results), form, output)
