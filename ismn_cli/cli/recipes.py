"""`ismn recipes`: what comes with ismn, to be read, copied and changed; and what is wrong with one of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ismn_cli.cli.console import result, say, table
from ismn_cli.cli.options import examples

if TYPE_CHECKING:
    from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
    from ismn_cli.stages.recipe_check import Examined

HELP = "List, show, copy and check recipes."
LS_EXAMPLES = examples("ismn recipes ls", "ismn recipes ls --plain")
CAT_EXAMPLES = examples("ismn recipes cat quickstart")
CP_EXAMPLES = examples("ismn recipes cp quickstart", "ismn recipes cp matrix-cifar10 mine.yaml", "ismn run mine.yaml")
CHECK_EXAMPLES = examples(
    "ismn recipes check mine.yaml",
    "ismn recipes check *.yaml",
    "Exit code: 0 where all is well, 2 where something is not.",
)
PROBLEMS = 2

Name = Annotated[str, typer.Argument(metavar="NAME", help="Recipe; see `ismn recipes ls`.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    recipes = typer.Typer(no_args_is_help=True, help=HELP)
    recipes.command("ls", help="List the recipes that come with ismn.", epilog=LS_EXAMPLES)(ls)
    recipes.command("cat", help="Print a recipe with its comments.", epilog=CAT_EXAMPLES)(cat)
    recipes.command("cp", help="Copy a recipe, to be changed.", epilog=CP_EXAMPLES)(cp)
    recipes.command(
        "check", help="Name all that is wrong with recipes, by line, without running them.", epilog=CHECK_EXAMPLES
    )(check)
    recipes.command(
        "schema", help="Print the JSON Schema of recipes, for editors.", epilog=examples("ismn recipes schema")
    )(schema)
    app.add_typer(recipes, name="recipes")


def ls(
    plain: Annotated[bool, typer.Option("--plain", help="Tabs instead of a table, for other programs.")] = False,
) -> None:
    """List recipes."""
    from ismn_cli.core.recipe_files import recipe_list

    rows = recipe_list()
    if plain:
        result("".join("\t".join(row) + "\n" for row in rows))
    else:
        table("recipes", ("name", "task", "what it is"), rows)


def cat(name: Name) -> None:
    """Print a recipe."""
    from ismn_cli.core.recipe_texts import recipe_text

    result(recipe_text(name))


def cp(
    name: Name,
    destination: Annotated[
        Path | None,
        typer.Argument(metavar="[DEST]", help="File or folder. (default: NAME.yaml here)", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Copy a recipe."""
    from ismn_cli.core.recipe_texts import copy_recipe

    place = copy_recipe(name, destination or Path(), force)
    say(f"recipe: {place}")
    say(f"next:   ismn run {_typed(place)}")


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, or names of recipes.")],
) -> None:
    """Check recipes."""
    from ismn_cli.stages.recipe_check import check_named

    found = [(name, check_named(name)) for name in files]
    for name, examined in found:
        for line in _lines(name, examined):
            result(line)
    count = sum(len(examined.problems) for _, examined in found)
    if count:
        say(f"{count} problem{'' if count == 1 else 's'} in {_files(found)}.")
        raise typer.Exit(PROBLEMS)


def schema() -> None:
    """Print the schema."""
    from ismn_cli.core.recipe_schema import stored

    result(stored())


def _lines(name: str, examined: Examined) -> list[str]:
    if examined.problems:
        return [f"{name}:{_printable(problem.text, problem.line)}" for problem in examined.problems]
    return [f"{name}: all is well: {_summary(examined.recipe)}"]


def _printable(text: str, line: int) -> str:
    """Return a problem on one line, whatever the file has in it."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"{line}: {shown}" if line else f" {shown}"


def _summary(recipe: MatrixRecipe | TrainRecipe | None) -> str:
    from ismn_cli.core.recipes import MatrixRecipe

    if isinstance(recipe, MatrixRecipe):
        return f"a matrix of {', '.join(recipe.defence)} on {recipe.dataset.name}."
    return f"a training of {recipe.system} on {recipe.dataset.name}." if recipe else ""


def _files(found: Sequence[tuple[str, Examined]]) -> str:
    wrong = sum(bool(examined.problems) for _, examined in found)
    return f"{wrong} of {len(found)} files" if len(found) > 1 else found[0][0]


def _typed(place: Path) -> str:
    from shlex import quote

    # a bare name would be looked for among those of ismn
    return quote(str(place) if place.suffix in (".yaml", ".yml") or len(place.parts) > 1 else f"./{place}")
