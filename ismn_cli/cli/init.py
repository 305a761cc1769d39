"""`ismn init`: a model, defence, attack, data set or recipe of one's own, to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from ismn_cli.cli.console import result, say
from ismn_cli.cli.options import examples

HELP = "Write a small working model, defence, attack, dataset or recipe of your own, and its test."
EXAMPLES = examples(
    "ismn init defence",
    "ismn init defence MyBlur",
    "ismn init attack attacks/mine.py",
    "ismn init recipe nightly",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init", help=HELP, epilog=EXAMPLES)(init)


def init(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="model, defence, attack, dataset or recipe.", show_default=False)
    ],
    place: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|PATH]", help="Its name, or a file or folder.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write a template."""
    from ismn_cli.core.starters import start

    started = start(kind, place, force)
    result(f"{started.file}\n{started.test}")
    for command in (f"pytest {started.test}", *started.commands(kind)):
        say(f"next:   {command}")
