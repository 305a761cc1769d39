"""What a recipe may say, as a JSON Schema for editors, from the models that recipes are parsed into.

It is a file of the package; a test compares it with what is made here. It is never stricter than the parser but for
`true` where a number belongs; names of systems, attacks and data sets are suggestions in it, as there are the user's
own.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ismn_cli.core import recipes
from ismn_cli.core.catalogue import ATTACKS, DATASETS, SYSTEMS, TRAINABLE
from ismn_cli.core.recipe_files import NAME
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
from ismn_cli.core.specs import parse_eps
from ismn_cli.core.torchvision_sets import PREFIX, SETS

FILE = Path(__file__).with_name("schemas") / "recipe.schema.json"
_NUMBER = r"^[\s+\-\d._eE/]+$"
"""Of a text that is read as a number: 8/255 is one to ismn and a text to others who read YAML."""
_BOOLEAN = "^([01tTfFyYnN]|[oO][nN]|[oO][fF][fF]|[yY][eE][sS]|[nN][oO]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$"


def stored() -> str:
    """Return the JSON Schema that comes with the package."""
    return FILE.read_text(encoding="utf-8")


def text() -> str:
    """Return the JSON Schema (draft 2020-12) of a recipe file."""
    parts: dict[str, Any] = {}
    for cls in (MatrixRecipe, TrainRecipe):
        whole = cls.model_json_schema(schema_generator=_Generator, ref_template="#/$defs/{model}")
        parts |= whole.pop("$defs", {})
        parts[cls.__name__] = whole
    for name, part in parts.items():
        _describe(part, getattr(recipes, name, None))
    _suggest(parts)
    for recipe in (parts["MatrixRecipe"], parts["TrainRecipe"]):
        del recipe["required"]  # the name, which the file has
        recipe["properties"]["name"] |= {
            "pattern": f"^{NAME.pattern}$",
            "description": "What its runs are called; the file's own name unless given.",
        }
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:ismn:recipe",
        "title": "ismn recipe",
        "description": "What `ismn run FILE` carries out; `ismn recipes check FILE` knows more of what is wrong.",
        "type": "object",
        "if": {"properties": {"task": {"const": "train"}}, "required": ["task"]},
        "then": {"$ref": "#/$defs/TrainRecipe"},
        "else": {"$ref": "#/$defs/MatrixRecipe"},
        "$defs": dict(sorted(parts.items())),
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


class _Generator(GenerateJsonSchema):
    """Allows what the parser reads besides the types themselves: one value for a list of it, texts for numbers."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        inner = self.generate_inner(schema["schema"])
        function: Any = schema["function"]["function"]
        if function is parse_eps:
            return {**inner, "minimum": 0, "maximum": 1}
        if function is recipes.OneOrMore.func:
            return {"anyOf": [inner["items"], inner]}
        return inner

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        return {**super().int_schema(schema), "type": ["integer", "string"], "pattern": _NUMBER}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        return {**super().float_schema(schema), "type": ["number", "string"], "pattern": _NUMBER}

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        return {"anyOf": [super().bool_schema(schema), {"enum": [0, 1]}, {"type": "string", "pattern": _BOOLEAN}]}


def _describe(part: dict[str, Any], cls: Any) -> None:
    """Put the docstrings of a model's fields beside them."""
    if not (inspect.isclass(cls) and issubclass(cls, BaseModel)):
        return
    told = _docstrings(cls)
    for name, field in part.get("properties", {}).items():
        field.pop("title", None)
        if name in told:
            field["description"] = told[name]


def _docstrings(cls: type) -> dict[str, str]:
    """Return field -> the text under it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    lines = body.body if isinstance(body, ast.ClassDef) else []
    found = {}
    for field, after in pairwise(lines):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(after.value.value).split())
    return found


def _suggest(parts: dict[str, Any]) -> None:
    """Name what there is where names are wanted; an editor offers it."""
    names = {
        "System": list(SYSTEMS),
        "Attack": list(ATTACKS),
        "Trainable": list(TRAINABLE),
        "Dataset": [*DATASETS, *(PREFIX + name for name in SETS)],
    }
    parts |= {kind: {"anyOf": [{"enum": known}, {"type": "string"}]} for kind, known in names.items()}
    matrix, grid = (parts[name]["properties"] for name in ("MatrixRecipe", "AttackGrid"))
    for kind, places in {
        "System": (matrix["defence"], matrix["optional"], matrix["transfer"]),
        "Attack": (grid["method"], grid["method_at"]["additionalProperties"]),
        "Trainable": [parts[name]["properties"]["system"] for name in ("TrainRecipe", "TrainingStep")],
        "Dataset": (parts["DataChoice"]["properties"]["name"],),
    }.items():
        for place in places:
            _offer(place, kind)


def _offer(place: dict[str, Any], kind: str) -> None:
    """Let every text that is allowed in ``place`` be one of a kind of names."""
    if place.get("type") == "string":
        del place["type"]
        place["$ref"] = f"#/$defs/{kind}"
    for inner in [*place.get("anyOf", ()), *([place["items"]] if "items" in place else [])]:
        _offer(inner, kind)
