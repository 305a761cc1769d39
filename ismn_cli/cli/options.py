"""Options that several commands share. None means "not given": what is not given overrides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ismn_cli.core.recipes import DataChoice

Attribute = Annotated[
    str | None,
    typer.Option(
        "--attribute", metavar="NAME", help="What is to be told of an image, for celeba. (default: Smiling)"
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size", metavar="N", help="Pixels a side, for celeba, folder and npz. (default: 128 for celeba)"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings to override, such as attack.eps=8/255.", show_default=False
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="Use the first N images of a seeded, class-balanced order. (default: all)",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="S", help="Seed of everything that is drawn at random. (default: 0)"),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:1. (default: auto)")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder that holds the data set. (default: ISMN_DATA_DIR, else a download where there is one)",
    ),
]
StoreDir = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Folder for runs and results. (default: ISMN_HOME, else ~/.ismn)"),
]
Defences = Annotated[
    list[str] | None,
    typer.Option("--defence", metavar="NAME[,NAME...]", help="Systems; see `ismn list systems`."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="WHICH",
        help="auto (newest finished training, else the released weights), released, or a run's id. (default: auto)",
    ),
]

ReportFormat = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="rich, markdown, latex, csv, json or html.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Tell an experiment tracker: tensorboard, or one of your own, module:Name (docs/trackers.md). Repeatable.",
    ),
]


def choice(
    name: str | None, limit: int | None = None, attribute: str | None = None, image_size: int | None = None
) -> dict[str, Any]:
    """Return what was given of a data set, as a recipe has it."""
    return given({"name": name, "limit": limit, "attribute": attribute, "image_size": image_size})


def data_choice(name: str | None, limit: int | None, attribute: str | None, image_size: int | None) -> DataChoice:
    """Return the choice of images that the options describe. Raises UsageError."""
    from ismn_cli.core.recipes import DataChoice
    from ismn_cli.core.settings import build_model

    chosen = choice(name, limit, attribute, image_size)
    return build_model(DataChoice, chosen, "the choice of images", "Write, for example: --limit 100 --image-size 128")


def examples(*lines: str) -> str:
    """Return the end of a help page: commands to type, a line each."""
    return "\n\n".join(["Examples:", *lines])


def listed(values: Sequence[str] | None) -> list[str] | None:
    """Read a repeatable option whose values may also be joined by commas."""
    if values is None:
        return None
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
