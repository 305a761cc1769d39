"""`ismn run`: a recipe carried out, a matrix or a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli import attack, shard, train
from ismn_cli.cli.console import note, result, results_apart, say, show, table
from ismn_cli.cli.options import Address, DataDir, Device, Engine, Limit, Overrides, StoreDir, Track, examples
from ismn_cli.cli.progress import Display

if TYPE_CHECKING:
    from ismn_cli.core.recipes import Recipe

HELP = "Carry out a recipe: one that comes with ismn, or a YAML file. What is stored is not computed again."
EXAMPLES = examples(
    "ismn run quickstart",
    "ismn run table3-cifar10 attack.eps=8/255 --limit 1000",
    "ismn run ./mine.yaml --data-dir ~/data --device cuda",
    "ismn run matrix-cifar10 --plan",
    "ismn run quickstart --shard 1/4",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", help=HELP, epilog=EXAMPLES)(run)


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path; see `ismn list recipes`.")],
    overrides: Overrides = None,
    limit: Limit = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
    track: Track = None,
    engine: Engine = None,
    address: Address = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Do nothing: print what would be done, and the memory that it takes.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Of a matrix, compute shard I of 1..N of the images. When all are done, the same command without this "
            "puts them together.",
        ),
    ] = None,
    trainings: Annotated[
        bool, typer.Option("--trainings", help="Of a matrix, carry out its own trainings and nothing else.")
    ] = False,
) -> None:
    """Carry out a recipe."""
    from ismn_cli.core.recipe_files import load_recipe
    from ismn_cli.core.recipes import TrainRecipe
    from ismn_cli.core.world import alone

    changes = [*(overrides or ()), *([f"dataset.limit={limit}"] if limit is not None else [])]
    loaded = load_recipe(recipe, changes)
    if plan or not isinstance(loaded, TrainRecipe):
        alone("run of a matrix")
    elsewhere = {"--engine": engine not in (None, "local") and engine, "--address": address}
    if part is not None:
        shard.alone("--shard", {"--trainings": trainings, "--plan": plan, "--track": track, **elsewhere})
        shard.carry_out(shard.matrix_of(loaded, recipe, "--shard"), shard.shard_of(part), data_dir, device, store)
        return
    if trainings:
        shard.alone("--trainings", {"--plan": plan, **elsewhere})
        shard.train_only(shard.matrix_of(loaded, recipe, "--trainings"), data_dir, device, store, track or ())
        return
    if plan:
        show_plan(loaded, data_dir, device, store)
        return
    if isinstance(loaded, TrainRecipe):
        train.carry_out(loaded, data_dir, device, store, fresh=False, track=track or ())
        return
    finished = attack.carry_out(loaded, data_dir, device, store, "run", None, track or (), engine, address)

    from ismn_cli.reporting.comparison_table import comparison_report

    unreliable = finished.audit.unreliable()
    beside = loaded.stand_in_for
    show(comparison_report(finished.results, ceilings=finished.ceilings, unreliable=unreliable, stand_in_for=beside))
    say(f"run:    {finished.run.folder}")
    say(f"report: {finished.run.folder / 'report.csv'}")


def show_plan(recipe: Recipe, data_dir: Path | None, device: str | None, store: Path | None) -> None:
    """Print what a recipe would do."""
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.outlook_table import outlook_headline, outlook_lines, outlook_sheets
    from ismn_cli.stages.outlook import outlook

    place = Store.open(store)
    with Display() as display, results_apart():
        found = outlook(recipe, place, data_dir, device or "auto", display.measuring)
    result(outlook_headline(found))
    for sheet in outlook_sheets(found):
        table(sheet.title, sheet.head, sheet.rows)
    for line in outlook_lines(found):
        note(line)
