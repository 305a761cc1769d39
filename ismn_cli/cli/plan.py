"""`ismn plan`: what a recipe would take in time, memory and disk, and how many images a budget buys."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

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
) -> None:
    """Predict what a recipe takes."""
    from ismn_cli.core.recipe_files import load_recipe
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.outlook_table import outlook_headline, outlook_sheets
    from ismn_cli.stages.outlook import expected

    seconds = None if budget is None else seconds_of(budget)
    loaded = load_recipe(recipe, [*(overrides or ()), *([f"dataset.limit={limit}"] if limit is not None else [])])
    with Display() as display:
        found, costs = expected(loaded, Store.open(store), data_dir, device or "auto", display.measuring)
    result(outlook_headline(found))
    for sheet in outlook_sheets(found):
        table(sheet.title, sheet.head, sheet.rows)
    if costs is not None:
        _show(costs, loaded, recipe, overrides or [], seconds)


def _show(found: Forecast, recipe: Recipe, name: str, overrides: list[str], budget: float | None) -> None:
    """Print the forecast, for the recipe's number of images or for what the budget buys."""
    from ismn_cli.reporting.forecast_table import forecast_lines, forecast_sheet

    images = found.images if budget is None else _bought(found, budget)
    sheet = forecast_sheet(found, images)
    table(sheet.title, sheet.head, sheet.rows)
    for line in forecast_lines(found, images):
        note(line)
    kept = [each for each in overrides if not each.startswith("dataset.limit=")]
    limited = recipe.dataset.limit is not None or images < found.available
    say("next: " + shlex.join(["ismn", "run", name, *kept, *(["--limit", str(images)] if limited else [])]))


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
