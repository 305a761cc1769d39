"""The JSON Schema of recipes: of this code, true of every recipe, and never stricter than the parser.

ISMN_UPDATE_GOLDEN=1 writes it anew; read the diff.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ismn_cli.core import recipe_schema
from ismn_cli.core.recipe_files import examined, parse_yaml
from ismn_cli.core.recipe_texts import HEADER, header, recipe_text
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
SCHEMA: dict[str, Any] = json.loads(recipe_schema.text())
VALIDATOR = Draft202012Validator(SCHEMA)
WHOLE = {
    "matrix": MatrixRecipe(name="whole", model={"reference": "net.py:Net"}, training={"a": {"system": "at"}}),
    "train": TrainRecipe(name="whole", model={"reference": "net.py:Net"}),
}
"""Recipes in which every part is there to be changed."""


def test_the_shipped_schema_is_that_of_the_code() -> None:
    if os.environ.get("ISMN_UPDATE_GOLDEN"):
        recipe_schema.FILE.write_text(recipe_schema.text(), encoding="utf-8")
    assert recipe_schema.stored() == recipe_schema.text()
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
@pytest.mark.parametrize("read", [parse_yaml, yaml.safe_load], ids=["as ismn reads it", "as others do"])
def test_every_recipe_is_of_it(file: Path, read: Any) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(read(file.read_text()))] == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_names_it_and_so_does_a_copy(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith(HEADER) and (FOLDER / first.removeprefix(HEADER)).resolve() == recipe_schema.FILE
    copied, _, rest = recipe_text(file.stem).partition("\n")
    assert copied == header() and Path(copied.removeprefix(f"{HEADER}file://")) == recipe_schema.FILE
    assert file.read_text() == f"{first}\n{rest}"


@pytest.mark.parametrize("recipe", WHOLE.values(), ids=WHOLE)
def test_what_the_parser_holds_is_of_it(recipe: MatrixRecipe | TrainRecipe) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(recipe.model_dump(mode="json"))] == []


def test_every_field_is_described_as_in_the_code() -> None:
    fields = SCHEMA["$defs"]["MatrixRecipe"]["properties"]
    assert set(fields) == set(MatrixRecipe.model_fields)
    assert fields["survivors"]["description"].startswith("Whether an attack leaves out")
    assert SCHEMA["$defs"]["TrainingStep"]["description"].startswith("A training that a matrix needs first")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("defense: none", ""),
        ("attack: {epss: 0.3}", "attack"),
        ("attack: {eps: 2}", "attack.eps"),
        ("attack: {norm: l3}", "attack.norm"),
        ("dataset: {limit: 0}", "dataset.limit"),
        ("dataset: cifar10", "dataset"),
        ("knowledge: grey", "knowledge"),
        ("task: matrics", "task"),
        ("task: train\ndefence: none", ""),
        ("name: a b", "name"),
    ],
)
def test_an_editor_marks(text: str, place: str) -> None:
    errors = list(VALIDATOR.iter_errors(yaml.safe_load(text)))
    assert [".".join(map(str, error.absolute_path)) for error in errors] == [place]


WORDS = st.text("abcxyzÄ-. |<&", max_size=5).filter(lambda word: word.strip())
LEAVES = st.none() | st.integers(-3, 2000) | st.floats(-2, 2, allow_nan=False) | WORDS | st.sampled_from(
    ["linf", "white", "gray", "8/255", "0.3", "12", "train", "matrix", "fp32"]
)  # fmt: skip
# true and false are left out: the parser takes them for 1 and 0, which is not what anybody means
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=4
)
CHANGE = st.tuples(st.integers(0, 200), VALUES, st.sampled_from(["put", "drop", "add"]))
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a mapping, its own first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, part in inner for found in places(part, (*path, key))]


def changed(mapping: dict[str, Any], changes: list[tuple[int, Any, str]]) -> dict[str, Any]:
    mapping = copy.deepcopy(mapping)
    for number, value, how in changes:
        known = places(mapping)
        *path, last = known[number % len(known)]
        holder: Any = mapping
        for key in path:
            holder = holder[key]
        if how == "put":
            holder[last] = value
        elif how == "drop":
            del holder[last]
        elif isinstance(holder, dict):
            holder[f"{last}s"] = value
    return mapping


@given(st.sampled_from(sorted(WHOLE)), CHANGES)
@settings(max_examples=400, deadline=None)
def test_what_it_refuses_the_parser_refuses_too(task: str, changes: list[tuple[int, Any, str]]) -> None:
    mapping = changed(WHOLE[task].model_dump(mode="json"), changes)
    refused = [error.message for error in VALIDATOR.iter_errors(mapping)]
    recipe, problems = examined({"name": "file"} | mapping)
    assert not refused or recipe is None or problems, refused


@given(st.sampled_from(sorted(WHOLE)), CHANGES)
@settings(max_examples=200, deadline=None)
def test_a_key_that_it_allows_the_parser_knows(task: str, changes: list[tuple[int, Any, str]]) -> None:
    mapping = changed(WHOLE[task].model_dump(mode="json"), [(at, value, "add") for at, value, _ in changes])
    unknown = [p for p in examined({"name": "file"} | mapping)[1] if "unknown key" in p]
    assert not unknown or not VALIDATOR.is_valid(mapping), unknown
