"""`ismn defend`: the examples of a stored run through defences, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ismn_cli.cli.attack import carry_out
from ismn_cli.cli.console import note, say, show
from ismn_cli.cli.options import (
    DataDir,
    DefenceArg,
    Defences,
    Device,
    StoreDir,
    Weights,
    defence_params,
    examples,
    given,
    listed,
)

if TYPE_CHECKING:
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.core.runs import Run
    from ismn_cli.core.store import Store

HELP = "Run the newest attack's stored examples through defences, side by side."
EXAMPLES = examples(
    "ismn defend --defence ismn,magnet,ddsa",
    "ismn defend --defence none,jpeg,median --run latest",
)
ALL = ("none", "ismn", "magnet", "ddsa")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("defend", help=HELP, epilog=EXAMPLES)(defend)


def defend(
    defence: Defences = None,
    defence_arg: DefenceArg = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Run whose examples to take. (default: the newest attack)"),
    ] = None,
    weights: Weights = None,
    device: Device = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
) -> None:
    """Compare defences on stored examples."""
    from ismn_cli.core.store import Store
    from ismn_cli.reporting.defend_table import defend_report

    place = Store.open(store)
    source = source_run(place, run)
    recipe = defend_recipe(source, listed(defence), weights, defence_params(defence, defence_arg))
    note(f"examples of run {source.record.id}")
    base = base_of_examples(place, source)
    finished = carry_out(recipe, data_dir, device, store, "defend", prefer_base=base)
    if any(system.base.weights != base for system in finished.systems):
        note("a defence stands on another base classifier than the examples: its own was attacked anew.")
    show(defend_report(finished.results, ceilings=finished.ceilings))
    say(f"run:    {finished.run.folder}")
    say(f"report: {finished.run.folder / 'report.csv'}")
    say("next:   ismn report --format markdown")


def source_run(store: Store, name: str | None) -> Run:
    """Return the run whose examples to take. Raises UsageError where there is none."""
    from ismn_cli.core.errors import UsageError

    hint = "Make some: ismn attack --method pgd --eps 8/255"
    if name is not None and name != "latest":
        found = store.run(name)
        if not _attacked(found):
            raise UsageError(f"Run {name} has no stored examples.", hint)
        return found
    attacked = [run for run in store.runs() if _attacked(run)]
    newest = next((run for run in attacked if run.record.kind == "attack"), next(iter(attacked), None))
    if newest is None:
        raise UsageError(f"There are no stored examples in '{store.root}' yet.", hint)
    return newest


def _attacked(run: Run) -> bool:
    return run.record.kind in ("attack", "run") and run.record.status == "done" and bool(run.record.cells)


def defend_recipe(
    source: Run, defences: list[str] | None, weights: str | None, arguments: dict[str, Any] | None = None
) -> MatrixRecipe:
    """Return the stored run's recipe for other defences. Raises UsageError."""
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.recipe_files import validate
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.core.specs import Knowledge

    stored = validate(dict(source.record.recipe))
    if not isinstance(stored, MatrixRecipe) or Knowledge.GRAY not in stored.knowledge:
        raise UsageError(
            f"The examples of run {source.record.id} were made for one defence (not gray-box).",
            "Make gray-box ones, which all defences can share: ismn attack --method pgd --eps 8/255",
        )
    methods = stored.attack.methods(Knowledge.GRAY)
    params = {name: values for name, values in stored.attack.params.items() if name in methods}
    grid = stored.attack.model_copy(update={"method": methods, "method_at": {}, "params": params})
    chosen = defences or list(ALL)
    given_then = {name: values for name, values in stored.defence_params.items() if name in chosen}
    changes = {"defence": chosen, "knowledge": ["gray"], "weights": weights, "defence_params": arguments or given_then}
    mapping = stored.model_dump(mode="json") | given(changes)
    recipe = validate(mapping | {"attack": grid.model_dump(mode="json"), "name": "defend", "summary": ""})
    if not isinstance(recipe, MatrixRecipe):
        raise TypeError(f"not a matrix: {recipe.task}")
    return recipe


def base_of_examples(store: Store, source: Run) -> str | None:
    """Return the hash of the classifier that the examples were made on."""
    for key in source.record.cells:
        result = store.cell(key)
        if result is not None and result.attacked is not None:
            return result.cell.classifier.weights
    return None
