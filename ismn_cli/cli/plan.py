"""`ismn plan`: what a recipe would take in time, memory and disk, and how many images a budget buys."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli import shard, slurm
from ismn_cli.cli.console import note, result, say, table
from ismn_cli.cli.options import DataDir, Device, Limit, Overrides, StoreDir, examples
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.forecast import Forecast
    from ismn_cli.core.recipes import Recipe

HELP = "Predict what a recipe takes in time, memory and disk, from a few timed batches; stores nothing."
EXAMPLES = examples(
    "ismn plan matrix-cifar10",
    "ismn plan quickstart --budget 10m",
    "ismn plan ./mine.yaml dataset.limit=1000 --device cuda",
    "ismn plan matrix-cifar10 --slurm --shards 24",
)
UNITS = {"h": 3600, "m": 60, "s": 1}
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", help=HELP, epilog=EXAMPLES)(plan)


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path; see `ismn list recipes`.")],
    overrides: Overrides = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Choose the number of images that this buys: 30m, 2h, 1h30m, 90s."),
    ] = None,
    limit: Limit = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
    cluster: Annotated[
        bool,
        typer.Option("--slurm", help="Write a script that submits it to Slurm: an array of shards, then the report."),
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --slurm: the number of shards. (default: so that each takes an hour)"),
    ] = None,
) -> None:
    """Predict what a recipe takes."""
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.recipe_files import load_recipe
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.outlook_table import outlook_headline, outlook_sheets
    from ismn_cli.stages.outlook import expected

    seconds = None if budget is None else seconds_of(budget)
    loaded = load_recipe(recipe, [*(overrides or ()), *([f"dataset.limit={limit}"] if limit is not None else [])])
    place = Store.open(store)
    script = None
    if cluster:
        matrix = shard.matrix_of(loaded, recipe, "--slurm")
        if matrix.training and budget is not None:
            raise UsageError("The recipe's own trainings depend on the number of images.", "Give --limit, no --budget.")
        script = slurm.Script.begin(matrix, place, data_dir, device or "auto", shards)
    elif shards is not None:
        raise UsageError("--shards is for the script of --slurm.", "Add: --slurm")
    with Display() as display:
        found, costs = expected(loaded, place, data_dir, device or "auto", display.measuring)
    result(outlook_headline(found))
    for sheet in outlook_sheets(found):
        table(sheet.title, sheet.head, sheet.rows)
    if script is not None:
        script.check(found)
    if costs is None:
        return
    images = costs.images if seconds is None else _bought(costs, seconds)
    _show(costs, images)
    words = _settings(costs, loaded, overrides or [], images)
    if script is None:
        say("next: " + shlex.join(["ismn", "run", recipe, *words]))
    else:
        script.write([recipe, *words], found, costs, images)


def _show(found: Forecast, images: int) -> None:
    """Print the forecast for so many images."""
    from ismn_cli.reporting.forecast_table import forecast_lines, forecast_sheet

    sheet = forecast_sheet(found, images)
    table(sheet.title, sheet.head, sheet.rows)
    for line in forecast_lines(found, images):
        note(line)


def _settings(found: Forecast, recipe: Recipe, overrides: list[str], images: int) -> list[str]:
    """Return what a run of so many images has behind the recipe's name."""
    kept = [each for each in overrides if not each.startswith("dataset.limit=")]
    limited = recipe.dataset.limit is not None or images < found.available
    return [*kept, *(["--limit", str(images)] if limited else [])]


def _bought(found: Forecast, budget: float) -> int:
    from ismn_cli.core.errors import UsageError
    from ismn_cli.reporting.forecast_table import duration

    images = found.affordable(budget)
    if not images:
        raise UsageError(
            f"{duration(budget)} is too little: one image takes about "
            f"{duration(found.seconds(1) - found.fixed_seconds)}, and the self-tests of the attacks, made once, "
            f"{duration(found.fixed_seconds)}.",
            "Give more, or leave out the dearest attack of the table that `ismn plan` prints without --budget.",
        )
    return images


def seconds_of(text: str) -> float:
    """Read a time such as 30m, 2h, 1h30m or 90s. Raises UsageError."""
    from ismn_cli.core.errors import UsageError

    found = _TIME.fullmatch(text.strip().lower())
    parts = found.groups() if found else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, UNITS.values(), strict=False) if part)
    if not seconds:
        raise UsageError(f"--budget '{text}' is no time.", "Write, for example: --budget 30m, 2h, 1h30m or 90s.")
    return seconds
