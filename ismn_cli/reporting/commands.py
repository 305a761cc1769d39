"""The commands that make a stored cell, or a whole run, again.

A matrix that options can describe is an `ismn attack`; any other is an `ismn run` of a recipe that comes with ismn, of
the run's own name where there is one, with all that differs from it as overrides. Where images lie (`--data-dir`) is
not recorded. Weights are named as the run named them: "auto" takes the newest training, so compare the hashes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from pydantic import JsonValue

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipe_files import load_recipe, parse_yaml, recipe_names, validate
from ismn_cli.core.recipes import AttackGrid, MatrixRecipe, TrainRecipe
from ismn_cli.core.records import RunRecord
from ismn_cli.core.specs import Cell, Knowledge, Search, format_eps, parse_eps

_STOCK = {"matrix": "quickstart", "train": "train-ismn-cifar10"}
"""The recipe to start from where none has the run's name."""
_INNER = ("dataset", "attack")
"""Fields that are overridden part by part."""
_WORD = re.compile(r"[A-Za-z][\w.-]*")
_UNTOLD = frozenset({"task", "name", "summary"})


def cell_command(record: RunRecord, cell: Cell) -> str | None:
    """Return the command that makes ``cell`` of the run again, and as little else as can be.

    None where the run's recipe is none that this version understands.
    """
    recipe = _recipe(record)
    if not isinstance(recipe, MatrixRecipe):
        return None
    return _typed(narrowed(recipe, cell), record)


def run_command(record: RunRecord) -> str | None:
    """Return the command that repeats the whole run; None where its recipe is none that this version understands."""
    recipe = _recipe(record)
    if recipe is None:
        return None
    named = _packaged(recipe.name)
    own = record.kind == "run" and named is not None and named.task == recipe.task
    return _typed(recipe, record, options=not own)


def narrowed(recipe: MatrixRecipe, cell: Cell) -> MatrixRecipe:
    """Return the part of ``recipe`` that makes ``cell`` and what it carries over from the attacks before it."""
    grid = AttackGrid()
    if cell.attack is not None:
        chain = [*cell.after, cell.attack]
        methods = {attack.method for attack in chain}
        sizes = {attack.threat.eps for attack in chain}
        grid = recipe.attack.model_copy(
            update={
                "method": tuple(name for name in recipe.attack.methods(cell.knowledge) if name in methods),
                "method_at": {},
                "eps": tuple(eps for eps in dict.fromkeys(recipe.attack.eps) if eps in sizes),
                "params": {name: values for name, values in recipe.attack.params.items() if name in methods},
                "eot": recipe.attack.eot if _averages(cell.knowledge) else grid.eot,
            }
        )
    changes: dict[str, Any] = {
        "defence": (cell.defence.name,),
        "optional": (),
        "knowledge": (cell.knowledge,),
        "attack": grid,
        "survivors": recipe.survivors and not _shared(cell),
        "transfer": recipe.transfer if cell.sources else MatrixRecipe.model_fields["transfer"].default,
    }
    there = {cell.defence.name, *(source.name for source in cell.sources)}
    changes["defence_params"] = {name: given for name, given in recipe.defence_params.items() if name in there}
    return recipe.model_copy(update=changes)


def _shared(cell: Cell) -> bool:
    """Whether all defences share the examples, or there are none: survivors make no difference to them."""
    return cell.knowledge in (Knowledge.CLEAN, Knowledge.GRAY) or bool(cell.sources)


def _averages(knowledge: Knowledge) -> bool:
    return knowledge in (Knowledge.WHITE, Knowledge.ADAPTIVE)


def _recipe(record: RunRecord) -> MatrixRecipe | TrainRecipe | None:
    try:
        return validate(record.recipe)
    except UsageError:
        return None


def _typed(recipe: MatrixRecipe | TrainRecipe, record: RunRecord, options: bool = True) -> str:
    plain = options and isinstance(recipe, MatrixRecipe) and _has_options(recipe)
    words = _attack_words(recipe) if plain and isinstance(recipe, MatrixRecipe) else _run_words(recipe)
    return shlex.join(["ismn", *words, "--device", record.environment.device])


def _has_options(recipe: MatrixRecipe) -> bool:
    """Whether `ismn attack` has options for all that ``recipe`` asks; it gives parameters to all methods alike."""
    plain = {name: MatrixRecipe.model_fields[name].default for name in ("survivors", "draws", "stand_in_for")}
    alike = len(recipe.attack.method) == 1 or not recipe.attack.params
    empty = not (recipe.optional or recipe.training or recipe.attack.method_at or recipe.defence_params or recipe.model)
    empty = empty and not any("," in name for name in (*recipe.defence, *recipe.attack.method, *recipe.transfer))
    known = recipe.search is not Search.BF16
    return alike and empty and known and all(getattr(recipe, name) == value for name, value in plain.items())


def _attack_words(recipe: MatrixRecipe) -> Iterator[str]:
    grid, data, usual = recipe.attack, recipe.dataset, MatrixRecipe(name="")
    yield from ("attack", "--knowledge", ",".join(recipe.knowledge), "--defence", ",".join(recipe.defence))
    if tuple(recipe.knowledge) != (Knowledge.CLEAN,):
        yield from ("--method", ",".join(grid.method), "--eps", ",".join(map(_size, grid.eps)), "--norm", grid.norm)
    for values in grid.params.values():
        for name, value in values.items():
            yield from ("--param", f"{name}={_text(value)}")
    told = {"eot": (grid.eot, usual.attack.eot), "transfer": (",".join(recipe.transfer), ",".join(usual.transfer))}
    told |= {"dataset": (data.name, None), "limit": (data.limit, None), "attribute": (data.attribute, None)}
    told |= {"image-size": (data.image_size, None), "weights": (recipe.weights, usual.weights)}
    for option, (given, default) in told.items():
        if given != default:
            yield from (f"--{option}", str(given))
    if recipe.search is Search.FP32:
        yield "--exact"
    yield from ("--seed", str(recipe.seed), "--batch-size", str(recipe.batch_size))


def _run_words(recipe: MatrixRecipe | TrainRecipe) -> Iterator[str]:
    base = _packaged(recipe.name)
    if base is None or base.task != recipe.task:
        base = _stock(recipe.task)
    yield from ("run", base.name)
    for name in type(recipe).model_fields:
        if name not in _UNTOLD:
            yield from _overrides(name, getattr(recipe, name), getattr(base, name))


def _overrides(name: str, value: Any, usual: Any) -> Iterator[str]:
    if value == usual:
        return
    if name not in _INNER:
        yield f"{name}={_told(name, value)}"
        return
    for part in type(value).model_fields:
        if getattr(value, part) != getattr(usual, part):
            yield f"{name}.{part}={_told(part, getattr(value, part))}"


def _told(name: str, value: Any) -> str:
    if name == "eps":
        sizes = [_size(eps) for eps in value]
        return sizes[0] if len(sizes) == 1 else f"[{', '.join(sizes)}]"
    return _text(_plain(value))


def _plain(value: Any) -> JsonValue:
    """Return ``value`` as JSON has it, a list of one as that one."""
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return _plain(value[0]) if len(value) == 1 else [_plain(inner) for inner in value]
    return cast(JsonValue, value)


def _text(value: JsonValue) -> str:
    """Return ``value`` as YAML on one line, a word without quotes where it is read as itself."""
    if isinstance(value, str) and _WORD.fullmatch(value) and parse_yaml(value) == value:
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return json.dumps(value)


def _size(eps: float) -> str:
    short = format_eps(eps)
    return short if parse_eps(short) == eps else repr(eps)


@cache
def _stock(task: str) -> MatrixRecipe | TrainRecipe:
    return load_recipe(_STOCK[task])


@cache
def _packaged(name: str) -> MatrixRecipe | TrainRecipe | None:
    """Return the recipe of this name that comes with ismn, if there is one."""
    if name not in dict(recipe_names()):
        return None
    try:
        return load_recipe(name)
    except UsageError:
        return None
