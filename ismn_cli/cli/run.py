"""`ismn run`: a recipe carried out, a matrix or a training."""

from __future__ import annotations

from typing import Annotated

import typer

from ismn_cli.cli import attack, train
from ismn_cli.cli.console import say, show
from ismn_cli.cli.options import DataDir, Device, Limit, Overrides, StoreDir, examples

HELP = "Carry out a recipe: one that comes with ismn, or a YAML file. What is stored is not computed again."
EXAMPLES = examples(
    "ismn run quickstart",
    "ismn run table3-cifar10 attack.eps=8/255 --limit 1000",
    "ismn run ./mine.yaml --data-dir ~/data --device cuda",
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
) -> None:
    """Carry out a recipe."""
    from ismn_cli.core.recipe_files import load_recipe
    from ismn_cli.core.recipes import TrainRecipe

    changes = [*(overrides or ()), *([f"dataset.limit={limit}"] if limit is not None else [])]
    loaded = load_recipe(recipe, changes)
    if isinstance(loaded, TrainRecipe):
        train.carry_out(loaded, data_dir, device, store, fresh=False)
        return
    finished = attack.carry_out(loaded, data_dir, device, store, "run")

    from ismn_cli.reporting.comparison_table import comparison_report

    unreliable = finished.audit.unreliable()
    show(comparison_report(finished.results, ceilings=finished.ceilings, unreliable=unreliable))
    say(f"run:    {finished.run.folder}")
    say(f"report: {finished.run.folder / 'report.csv'}")
