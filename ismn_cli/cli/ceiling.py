"""`ismn ceiling`: what any classifier can at most reach, from the images alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import note, result, show
from ismn_cli.cli.options import (
    Attribute,
    DataDir,
    ImageSize,
    Limit,
    ReportFormat,
    Seed,
    StoreDir,
    data_choice,
    examples,
    listed,
)
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.specs import Norm

HELP = "Compute the robust accuracy that no classifier can exceed, from the images alone."
EXAMPLES = examples(
    "ismn ceiling --eps 0.3",
    "ismn ceiling --dataset cifar10 --eps 0.2,0.3,0.4 --format markdown",
)
SIZES = ("8/255", "0.2", "0.3", "0.4")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ceiling", help=HELP, epilog=EXAMPLES)(ceiling)


def ceiling(
    eps: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE[,SIZE...]", help=f"Size, pixels in [0, 1]: 0.3 or 8/255. (default: {','.join(SIZES)})"
        ),
    ] = None,
    norm: Annotated[str, typer.Option(metavar="NORM", help="linf or l2.")] = "linf",
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set. (default: cifar10 if it is on disk, else cifar10-mini)"),
    ] = None,
    limit: Limit = None,
    attribute: Attribute = None,
    image_size: ImageSize = None,
    seed: Seed = None,
    form: ReportFormat = "rich",
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Show ceilings."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.render import FORMATS

    sizes, bound = read_sizes(SIZES if eps is None else listed(eps) or [""]), read_norm(norm)
    if form not in FORMATS:
        raise unknown_name("report format", form, FORMATS)
    place = Store.open(store)
    wanted = data_choice(dataset or _at_hand(data_dir), limit, attribute, image_size)

    from ismn_cli.data.loading import load_dataset
    from ismn_cli.reporting.ceiling_table import ceiling_report
    from ismn_cli.reporting.render import render_text
    from ismn_cli.stages.ceilings import ensure_ceilings

    images = load_dataset(wanted, "test", data_dir, seed or 0)
    with Display() as display:
        found = ensure_ceilings(place, images, bound, sizes, display.pairs)
    report = ceiling_report(list(found.values()))
    if form == "rich":
        show(report)
    else:
        result(render_text(report, form))


def read_sizes(texts: Sequence[str]) -> list[float]:
    """Return the sizes in ascending order, none twice. Raises UsageError."""
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.specs import parse_eps

    try:
        return sorted({parse_eps(text) for text in texts})
    except ValueError as error:
        raise UsageError(f"{error}.", "Write, for example: ismn ceiling --eps 8/255,0.3") from None


def read_norm(text: str) -> Norm:
    """Return the norm of this name. Raises UsageError with the nearest one."""
    from ismn_cli.core.errors import unknown_name
    from ismn_cli.core.specs import Norm

    try:
        return Norm(text)
    except ValueError:
        raise unknown_name("norm", text, list(Norm)) from None


def _at_hand(data_dir: Path | None) -> str:
    from ismn_cli.data.loading import dataset_at_hand

    if dataset_at_hand(data_dir):
        return "cifar10"
    note("cifar10 is not on disk: using cifar10-mini, 1,000 of its test images. (--data-dir, --dataset)")
    return "cifar10-mini"
