"""A recipe file examined, not run: every mistake at once, each with its line. No torch, none of the user's code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ismn_cli.core.catalogue import ATTACKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipe_files import examined, find_recipe, parse_yaml, yaml_nodes, yaml_reason
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
from ismn_cli.core.reference_checks import reference_problem
from ismn_cli.core.references import is_reference
from ismn_cli.core.specs import ThreatModel
from ismn_cli.core.torchvision_sets import PREFIX

_QUOTED, _WORD = re.compile(r"'([^']*)'"), re.compile(r"[a-z]\w*")
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, order=True)
class Problem:
    """Something to put right."""

    line: int
    """From 1; 0 for the file as a whole."""
    text: str


@dataclass(frozen=True)
class Examined:
    """What there is to say of a recipe file."""

    recipe: MatrixRecipe | TrainRecipe | None
    """None where it cannot be read as one."""
    problems: tuple[Problem, ...]


def check_named(name_or_path: str) -> Examined:
    """Return what is wrong with a recipe: that there is none, too."""
    try:
        return check_recipe(find_recipe(name_or_path))
    except UsageError as error:
        return Examined(None, (Problem(0, f"{error.message} {error.hint}"),))


def check_recipe(file: Path) -> Examined:
    """Return what is wrong with a recipe file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return Examined(None, (Problem(0, f"it cannot be read: {error}"),))
    try:
        mapping, nodes = parse_yaml(text), yaml_nodes(text)
    except (yaml.YAMLError, RecursionError) as error:
        return Examined(None, (_unreadable(error),))
    if not isinstance(mapping, dict) or nodes is None:
        return Examined(None, (Problem(1, "it is not a mapping of names to values"),))
    recipe, wrong = examined({"name": file.stem} | mapping)
    wrong += [*_references(mapping), *(_attacks(recipe) if isinstance(recipe, MatrixRecipe) else ())]
    return Examined(recipe, tuple(sorted(Problem(_line(nodes, text), text) for text in dict.fromkeys(wrong))))


def _unreadable(error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or yaml_reason(error)
    return Problem(mark.line + 1 if mark else 1, f"it is no YAML text: {reason}")


def _references(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with names of the user's own."""
    for place in ("dataset.name", "defence", "transfer", "attack.method"):
        yield from _wrong(place, _at(mapping, place))
    levels = _at(mapping, "attack.method_at")
    for level, methods in levels.items() if isinstance(levels, Mapping) else ():
        yield from _wrong(f"attack.method_at.{level}", methods)
    model = _at(mapping, "model")
    # other models are files of weights, or names that only their libraries know
    if isinstance(model, Mapping) and ".py:" in str(model.get("reference")):
        folder = model.get("folder")
        yield from _wrong("model.reference", model["reference"], Path(folder) if isinstance(folder, str) else None)


def _wrong(place: str, given: Any, folder: Path | None = None) -> Iterator[str]:
    for name in given if isinstance(given, list) else [given]:
        if isinstance(name, str) and is_reference(name) and not name.startswith(PREFIX):
            problem = reference_problem(name.partition("@")[0] if place == "transfer" else name, folder)
            if problem:
                yield f"{place}: '{name}': {problem}"


def _at(mapping: Any, place: str) -> Any:
    for key in place.split("."):
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    return mapping


def _attacks(recipe: MatrixRecipe) -> Iterator[str]:
    """Yield what is wrong with the parameters of ismn's own attacks, at every size."""
    from ismn_cli.attacks.params import resolve_params

    grid = recipe.attack
    used = {method for level in recipe.knowledge for method in grid.methods(level)}
    for method in sorted((used | set(grid.params)) & set(ATTACKS)):
        norm = grid.norm if method in used else ATTACKS[method].norms[0]
        for eps in grid.eps:
            try:
                resolve_params(method, ThreatModel(norm=norm, eps=eps), grid.params.get(method, {}))
            except UsageError as error:
                yield from _told(method, error)


def _told(method: str, error: UsageError) -> Iterator[str]:
    head, *lines = error.message.splitlines()
    alone = head.removeprefix(f"attack {method}: ")
    if alone == head and not lines:
        yield f"attack.norm: {head.removesuffix('.')}"
        return
    yield from (f"attack.params.{method}: {line.strip().removesuffix('.')}" for line in lines or [alone])


def _line(root: yaml.Node, problem: str) -> int:
    """Return the line that a problem, "a.b: what is wrong with 'x'", is in: that of 'x' in what is at a.b."""
    place, _, told = problem.partition(": ")
    line, node = _deepest(root, place)
    told = told.partition("; ")[0]  # then it says what was meant
    meant = _QUOTED.findall(told)[:1] or _WORD.findall(told)
    return next((n.start_mark.line for n in _scalars(node) if n.value in meant), line) + 1


def _deepest(node: yaml.Node, place: str) -> tuple[int, yaml.Node]:
    """Return the line where the deepest part of ``place`` that is there is named, and what is there."""
    line: int = node.start_mark.line
    while place:
        found = _entry(node, place)
        if found is None:
            break
        line, node, place = found
    return line, node


def _entry(node: yaml.Node, place: str) -> tuple[int, yaml.Node, str] | None:
    """Return the line and the value of the first part of ``place`` in ``node``, and the rest of the place."""
    if isinstance(node, yaml.SequenceNode):
        number, _, rest = place.partition(".")
        at = int(number) if number.isdecimal() else len(node.value)
        return (node.value[at].start_mark.line, node.value[at], rest) if at < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        return None
    # a key may have dots in it
    fits = [(k, v) for k, v in node.value if place == k.value or place.startswith(f"{k.value}.")]
    for key, value in sorted(fits, key=lambda pair: -len(pair[0].value)):
        return key.start_mark.line, value, place[len(key.value) + 1 :]
    merged = [value for key, value in node.value if key.tag == _MERGE]
    return next((found for value in merged if (found := _entry(value, place))), None)


def _scalars(node: yaml.Node, seen: frozenset[int] = frozenset()) -> Iterator[yaml.ScalarNode]:
    """Yield the words in a part of a text, keys too; an alias of what it is in is passed over."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif id(node) not in seen:
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        for part in inner:
            yield from _scalars(part, seen | {id(node)})
