"""Why two runs cannot be compared: every difference by name, and what to type to make them comparable."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.paired import sample_differences
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult, RunRecord
from ismn_cli.core.specs import AttackSpec, Cell, format_eps
from ismn_cli.reporting.run_pairs import matched_systems
from ismn_cli.reporting.table import one_line

_OF_ATTACK: tuple[tuple[str, Callable[[AttackSpec], str]], ...] = (
    ("attacks", lambda attack: attack.method),
    ("norms", lambda attack: attack.threat.norm.value),
    ("sizes", lambda attack: format_eps(attack.threat.eps)),
    ("aims", lambda attack: "targeted" if attack.threat.targeted else "untargeted"),
)


def not_comparable(
    records: tuple[RunRecord, RunRecord], first: Sequence[CellResult], second: Sequence[CellResult]
) -> UsageError:
    """Return the error that says in what two runs differ, and how to repeat the second for a comparison."""
    found = differences([r.cell for r in first], [r.cell for r in second])
    if not any(matched_systems(first, second)):
        names = (_names(r.cell.defence.name for r in run) for run in (first, second))
        found.insert(0, f"the systems differ ({' and '.join(names)}), and none has just one defended system")
    lines = "".join(f"\n  {line}" for line in found)
    return UsageError(f"{records[0].id} and {records[1].id} cannot be compared:{lines}", _hint(records))


def differences(first: Sequence[Cell], second: Sequence[Cell]) -> list[str]:
    """Return everything in which the images, the knowledge and the threat models of two runs differ."""
    mine, theirs = ({cell.samples for cell in cells} for cells in (first, second))
    found = [] if mine & theirs else sample_differences(first[0].samples, second[0].samples)
    attacked = [[cell for cell in cells if cell.attack is not None] for cells in (first, second)]
    if not all(attacked):
        return found
    found += _apart("knowledge levels", *({cell.knowledge.value for cell in cells} for cells in attacked))
    for what, of in _OF_ATTACK:
        found += _apart(what, *({of(cell.attack) for cell in cells if cell.attack} for cells in attacked))
    return found or ["they have no attack in common", *_listed(attacked)]


def _apart(what: str, mine: set[str], theirs: set[str]) -> Iterator[str]:
    if not mine & theirs:
        yield f"the {what} differ ({_names(mine)} and {_names(theirs)})"


def _listed(attacked: Sequence[Sequence[Cell]]) -> Iterator[str]:
    for which, cells in zip(("first", "second"), attacked, strict=True):
        met = (f"{c.defence.name} {c.knowledge} {c.attack.label()} on {c.samples.count:,}" for c in cells if c.attack)
        yield f"the {which} has {_names(met)}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted({one_line(name) for name in names}))


def _hint(records: tuple[RunRecord, RunRecord]) -> str:
    try:
        wanted, given = (MatrixRecipe.model_validate(record.recipe) for record in records)
    except ValidationError:
        return "Run both as one matrix, or the second with the data set, limit, seed and attacks of the first."
    if records[1].kind == "score":
        return "Score the examples on the images, and at the size, of the first; see: ismn score --help"
    changes = {name: value for name, value in _settings(wanted).items() if _settings(given)[name] != value}
    if not changes:
        return "Their settings are the same: give both the same --data-dir."
    return f"Repeat the second like the first: {_command(records[1], given, changes)}"


def _settings(recipe: MatrixRecipe) -> dict[str, Any]:
    """Return what decides on images and threat models, by its place in a recipe."""
    grid = recipe.attack
    options = {f"dataset.{name}": value for name, value in recipe.dataset.model_dump().items()}
    return options | {
        "seed": recipe.seed,
        "knowledge": [level.value for level in recipe.knowledge],
        "attack.method": list(grid.method),
        "attack.norm": grid.norm.value,
        "attack.eps": [format_eps(eps) for eps in grid.eps],
    }


_OPTIONS = {
    "dataset.name": "--dataset",
    "dataset.limit": "--limit",
    "dataset.attribute": "--attribute",
    "dataset.image_size": "--image-size",
    "seed": "--seed",
    "knowledge": "--knowledge",
    "attack.method": "--method",
    "attack.norm": "--norm",
    "attack.eps": "--eps",
}


def _command(record: RunRecord, recipe: MatrixRecipe, changes: dict[str, Any]) -> str:
    """Return the command that makes ``record`` again with ``changes``."""
    if record.kind == "run":
        words = [f"{name}={_value(value)}" for name, value in changes.items()]
        return shlex.join(["ismn", "run", record.name, *words])
    options = {_OPTIONS[name]: value for name, value in (_settings(recipe) | changes).items()}
    words = [word for name, value in options.items() if value is not None for word in (name, _joined(value))]
    params = [f"{name}={value}" for method in recipe.attack.params.values() for name, value in method.items()]
    words += [word for param in params for word in ("--param", param)]
    given = [f"{name}={value}" for values in recipe.defence_params.values() for name, value in values.items()]
    words += [word for argument in dict.fromkeys(given) for word in ("--defence-arg", argument)]
    words += recipe.model.options() if recipe.model else []
    return shlex.join(["ismn", "attack", "--defence", ",".join(recipe.defence), *words])


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]" if len(value) > 1 else str(value[0])
    return "null" if value is None else str(value)


def _joined(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
