"""`ismn export`: the adversarial examples of a run, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ismn_cli.cli.console import note, say
from ismn_cli.cli.options import DataDir, StoreDir, examples, given

HELP = (
    "Write the adversarial examples of one cell of a run, with labels, ids, clean images and outcomes.\n\n"
    "npz and safetensors hold them as they were judged; png is a folder of 8-bit images with manifest.csv, rounded "
    "towards the clean images."
)
EXAMPLES = examples(
    "ismn export latest -o adv.npz",
    "ismn export quickstart-88e5c37d --defence ismn --method pgd -o adv.safetensors",
    "ismn export latest --format png -o adv",
)
FORMATS = ("npz", "safetensors", "png")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", help=HELP, epilog=EXAMPLES)(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or latest; see `ismn list runs`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="A file; for png a new folder.")],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="npz, safetensors or png. (default: by PATH, else npz)"),
    ] = None,
    defence: Annotated[str | None, typer.Option(metavar="NAME", help="The cell of this system.")] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="The cell of this attack.")] = None,
    knowledge: Annotated[str | None, typer.Option(metavar="LEVEL", help="The cell of this knowledge level.")] = None,
    eps: Annotated[str | None, typer.Option(metavar="SIZE", help="The cell of this size: 0.3 or 8/255.")] = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Write the examples of one cell."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.core.store import Store
    from ismn_cli.stages.export import chosen_cell, gather

    form = form or (output.suffix[1:].lower() if output.suffix[1:].lower() in FORMATS[:2] else FORMATS[0])
    if form not in FORMATS:
        raise unknown_name("format of examples", form, FORMATS)
    wanted = given({"defence": defence, "knowledge": knowledge, "method": method, "eps": _size(eps)})
    place = Store.open(store)
    chosen = place.run(run)
    result = chosen_cell(chosen, place, wanted)
    found = gather(chosen, result, place, data_dir)

    from ismn_cli.data import example_exports as exports

    writers = {"npz": exports.write_npz, "safetensors": exports.write_safetensors, "png": exports.write_png}
    writers[form](output, found)
    if form == "png":
        note(exports.ROUNDED)
    attack = result.cell.attack
    what = f"{result.cell.knowledge} {attack.label() if attack else ''} on {result.cell.defence.name}"
    say(f"examples: {len(found.ids):,} of {what}: {output}")


def _size(eps: str | None) -> str | None:
    """Return eps as it is told. Raises UsageError."""
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.specs import format_eps, parse_eps

    if eps is None:
        return None
    try:
        return format_eps(parse_eps(eps))
    except ValueError as error:
        raise UsageError(f"{str(error)[0].upper()}{str(error)[1:]}.", "Write, for example: --eps 8/255") from None
