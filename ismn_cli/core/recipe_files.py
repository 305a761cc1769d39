"""Recipes as files: found by name or path, changed by bare overrides, checked as a whole."""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.recipe_checks import catalogue_problems
from ismn_cli.core.recipes import MatrixRecipe, Recipe, TrainRecipe
from ismn_cli.core.settings import nearest, problems, refusal

_PACKAGE = Path(__file__).resolve().parents[1]
_SUFFIXES = {".yaml", ".yml"}
_TASKS: dict[str, type[MatrixRecipe | TrainRecipe]] = {"matrix": MatrixRecipe, "train": TrainRecipe}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 and 8/255 as numbers, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """See `yaml.SafeLoader`."""
        plain = [key for key, _ in node.value if key.tag != _MERGE]
        keys = [self.construct_object(key, deep=True) for key in plain]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"'{twice[0]}' is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _fraction(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float | str:
    text = str(loader.construct_scalar(node))
    numerator, denominator = (float(part) for part in text.split("/"))
    return numerator / denominator if denominator else text


_Loader.add_constructor("!fraction", _fraction)
_Loader.add_implicit_resolver("!fraction", re.compile(r"^\d+(\.\d+)?/\d+(\.\d+)?$"), list("0123456789"))
_Loader.add_implicit_resolver(  # YAML 1.1 reads 1e-3 as text
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a recipe that comes with ismn, or of one given by its path.

    Raises UsageError with the nearest name, or where there is no such file.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
        if not path.is_file():
            raise UsageError(f"There is no recipe file '{path}'.", "See those of ismn: ismn list recipes")
        return path
    known = {file.stem: file for file in _packaged()}
    if name_or_path not in known:
        raise unknown_name("recipe", name_or_path, known)
    return known[name_or_path]


def recipe_names() -> list[tuple[str, str]]:
    """Return (name, summary) of the recipes that come with ismn."""
    return [(name, summary) for name, _, summary in recipe_list()]


def recipe_list() -> list[tuple[str, str, str]]:
    """Return (name, task, summary) of the recipes that come with ismn."""
    read = ((file.stem, _read(file)) for file in _packaged())
    return [(name, str(it.get("task", "matrix")), str(it.get("summary", ""))) for name, it in read]


def packaged_names() -> list[str]:
    """Return the names of the recipes that come with ismn; no file is read."""
    return [file.stem for file in _packaged()]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> MatrixRecipe | TrainRecipe:
    """Return the recipe with ``overrides`` such as "attack.eps=8/255" applied in order.

    Raises UsageError listing all that is wrong with the file and the overrides.
    """
    file = find_recipe(name_or_path)
    mapping = _read(file)
    found = [problem for override in overrides if (problem := _override(mapping, override))]
    return _validate({"name": file.stem} | mapping, f"recipe '{name_or_path}'", found)


def validate(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that ``mapping`` describes, changed by ``overrides``.

    Raises UsageError listing all that is wrong with it.
    """
    whole = copy.deepcopy(dict(mapping))
    found = [problem for override in overrides if (problem := _override(whole, override))]
    return _validate(whole, f"recipe '{mapping.get('name', '')}'", found)


def _packaged() -> list[Path]:
    """Return the recipes of the installed package, or in a checkout those of the sibling folder."""
    installed = _PACKAGE / "recipes"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "recipes"
    return sorted(folder.glob("*.yaml"))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(
            f"Cannot read recipe '{file}': {yaml_reason(error)}.", "It should be YAML text."
        ) from None
    if not isinstance(content, dict):
        raise UsageError(
            f"Recipe '{file}' is not a mapping of names to values.", "See those of ismn: ismn list recipes"
        )
    return content


def parse_yaml(text: str) -> Any:
    """Return what the YAML ``text`` says, read safely. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def yaml_nodes(text: str) -> yaml.Node | None:
    """Return the parts of a YAML text with their places in it. Raises yaml.YAMLError."""
    return yaml.compose(text, Loader=_Loader)


def yaml_reason(error: Exception) -> str:
    """Return in one line what is wrong with a YAML text."""
    return " ".join(str(error).split())


def _override(mapping: dict[str, Any], override: str) -> str | None:
    """Put one "a.b=value" into ``mapping``; return what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return f"'{override}': should have the form key=value, for example attack.eps=8/255"
    if not text.strip():
        return f"'{override}': no value is given; write null for none"
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, RecursionError) as error:
        return f"'{override}': {yaml_reason(error)}"
    for depth, key in enumerate(keys[:-1]):
        inner = mapping.setdefault(key, {})
        if not isinstance(inner, dict):
            return f"'{override}': {'.'.join(keys[: depth + 1])} is a value and has no keys"
        mapping = inner
    mapping[keys[-1]] = value
    return None


def _validate(mapping: Mapping[str, Any], where: str, found: list[str]) -> MatrixRecipe | TrainRecipe:
    recipe, wrong = examined(mapping)
    if recipe is None or found or wrong:
        raise refusal(where, [*found, *wrong])
    return recipe


def examined(mapping: Mapping[str, Any]) -> tuple[MatrixRecipe | TrainRecipe | None, list[str]]:
    """Return the recipe, where all of its values are of the right type, and a line for each thing that is wrong."""
    task = mapping.get("task", "matrix")
    cls = _TASKS.get(task) if isinstance(task, str) else None
    if cls is None:
        return None, [f"task: '{task}' is not a task; {nearest(str(task), sorted(_TASKS))}"]
    found = catalogue_problems(mapping, cls is TrainRecipe)
    try:
        recipe = cls.model_validate(mapping)
    except ValidationError as error:
        return None, problems(error, cls) + found
    if not NAME.fullmatch(recipe.name):  # it names a folder of the store
        found.append(f"name: '{recipe.name}' should be letters, digits, '.', '_' and '-'")
    return recipe, found
