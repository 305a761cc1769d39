"""`ismn rerun`: a stored result computed again from its record, and the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ismn_cli.cli.console import results_apart, say
from ismn_cli.cli.options import DataDir, Device, examples, place
from ismn_cli.cli.progress import Display
from ismn_cli.cli.report import deliver

HELP = (
    "Compute a stored result again from its record, with the same weights, images, seed and batch size, and show what "
    "differs.\n\nExit code 0 where all of it is identical, 1 where anything differs. Stored cells are compared with, "
    "never taken over."
)
EXAMPLES = examples(
    "ismn rerun ~/.ismn/runs/quickstart-88e5c37d/record.json",
    "ismn rerun ~/.ismn/cells/0a/0a4c...json --device cpu --format json",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rerun", help=HELP, epilog=EXAMPLES)(rerun)


def rerun(
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT.json", parser=place, help="A run's record.json, or a cell's file in the store."),
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="As in `ismn report`; csv and json have every id.")
    ] = "rich",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file. (default: stdout)")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, where a repetition that was cut would be continued.")
    ] = False,
    device: Device = None,
    data_dir: DataDir = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            parser=place,
            help="Store of the results and trainings. (default: that of the file)",
        ),
    ] = None,
) -> None:
    """Repeat a result."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.core.result_files import read_result, store_of
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.render import FORMATS
    from ismn_cli.reporting.rerun_table import all_identical, rerun_report

    if form not in FORMATS:
        raise unknown_name("report format", form, FORMATS)
    found = read_result(result)
    home = Store.open(store or store_of(result))

    from ismn_cli.stages import rerun as stage

    recorded = stage.recorded_of(found, home)
    with results_apart():
        matrix = stage.plan_rerun(recorded, home, data_dir, device or "auto")
    for system in (*matrix.systems, *matrix.sources):
        say(f"{system.subject.name}: {system.origin}, as recorded")
    now = stage.here(matrix)
    scratch = stage.open_scratch(recorded, home, now, fresh)
    with Display() as display, results_apart():
        repeated = stage.rerun(recorded, matrix, scratch, display.matrix)
    stage.discard(scratch)
    deliver(rerun_report(recorded.name, repeated, recorded.environment, now), form, output)
    raise typer.Exit(0 if all_identical(repeated) else 1)
