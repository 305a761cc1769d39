"""`ismn data check`: is a data set whole, and what is in it? Before hours are spent on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import result, say, table
from ismn_cli.cli.options import Attribute, DataDir, ImageSize, data_choice, examples

if TYPE_CHECKING:
    from ismn_cli.stages.data_check import DataReport, SplitCount

HELP = "Examine data sets."
CHECK_HELP = (
    "Name every file of a data set that is missing, cut short, or a web page saved under its name, and say where to "
    "have it from; or show what there is."
)
EXAMPLES = examples(
    "ismn data check celeba --data-dir DIR",
    "ismn data check celeba --data-dir DIR --attribute Male --full",
    "ismn data check folder --data-dir DIR --image-size 64",
    "ismn data check csv --data-dir FILE.csv",
    "ismn data check my_data.py:digits",
    "Exit code: 0 where all is well, 1 where something is not, 2 for wrong usage.",
)
PROBLEMS = 1
MANY = 4
"""Classes from which on only their extremes are shown."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    data = typer.Typer(no_args_is_help=True, help=HELP)
    data.callback()(_no_options)  # without it a Typer of one command is that command
    data.command("check", help=CHECK_HELP, epilog=EXAMPLES)(check)
    app.add_typer(data, name="data")


def _no_options() -> None:
    """Take no options before the command."""


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Data set; see `ismn list datasets`.")],
    data_dir: DataDir = None,
    attribute: Attribute = None,
    image_size: ImageSize = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every file.")] = False,
) -> None:
    """Examine a data set."""
    from ismn_cli.stages.data_check import check_data

    report = check_data(data_choice(name, None, attribute, image_size), data_dir, full)
    _show(report)
    if report.problems:
        raise typer.Exit(PROBLEMS)


def _show(report: DataReport) -> None:
    if report.splits:
        head = ("split", "images", "share of each class", "majority-class rate")
        table(report.name, head, [_row(count) for count in report.splits])
    for fact in report.facts:
        result(fact)
    if not report.problems:
        result(f"{report.name}: all is well.")
        return
    count = len(report.problems)
    result(f"{report.name}: {count:,} problem{'' if count == 1 else 's'}")
    for problem in report.problems:
        result(f"  {problem}")
    for hint in report.hints:
        say(f"hint: {hint}")


def _row(count: SplitCount) -> tuple[str, str, str, str]:
    shares = {name: images / max(count.images, 1) for name, images in count.classes.items()}
    if len(shares) > MANY:
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        told = f"{len(shares)} classes, from {shares[least]:.1%} ({least}) to {shares[most]:.1%} ({most})"
    else:
        told = ", ".join(f"{share:.1%} {name}" for name, share in shares.items())
    return count.split, f"{count.images:,}", told, f"{count.majority:.1%}"
