"""For mkdocs: pages of the reference that are made from the code as it is at the build.

The command line from its commands, the checks and rules from their catalogues, recipes from their JSON Schema.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SCHEMA = "reference/recipe.schema.json"
NAMED = {
    "Attack": ["a name of `ismn list attacks`, or a reference"],
    "Dataset": ["a name of `ismn list datasets`, or a reference"],
    "JsonValue": ["anything"],
    "System": ["a name of `ismn list systems`, or a reference"],
    "Trainable": ["a name after `ismn train --system`"],
}
"""Parts of the schema that suggest names."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; see mkdocs' events."""
    from ismn_cli.core.recipe_schema import stored

    pages = {
        "reference/cli.md": command_line(),
        "reference/checks.md": checks(),
        "reference/recipes.md": recipes(),
        SCHEMA: stored(),
    }
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def command_line() -> str:
    """Return what every `--help` says, in Markdown."""
    import typer
    from typer.cli import get_docs_for_click

    from ismn_cli.cli.app import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="ismn")
    found = get_docs_for_click(obj=command, ctx=context, name="ismn", title="Command line")
    return _examples(html.unescape(found))


def _examples(text: str) -> str:
    """Put the lines after "Examples:" into blocks; Typer has them as paragraphs."""

    def block(found: re.Match[str]) -> str:
        lines = [line for line in found[1].splitlines() if line]
        commands = [line for line in lines if line.startswith("ismn ")]
        rest = [line for line in lines if line not in commands]
        written = "\n".join(f"$ {command}" for command in commands)
        return "\n\n".join(["Examples:", f"```console\n{written}\n```", *rest, ""])

    return re.sub(r"^Examples:\n((?:\n(?!#|\*\*|```).*)+)", block, text, flags=re.MULTILINE)


def checks() -> str:
    """Return the audit's and the doctor's checks, and the rules of the conformance kit, in Markdown."""
    from ismn_cli.core.checks import CHECKS
    from ismn_cli.core.conformance import RULES

    parts = [
        "# Checks and rules",
        "Stable codes. `ismn audit` and `ismn doctor` ask the checks, `ismn check` and `ismn_cli.testing` the rules.",
        "## Checks",
        *_described(CHECKS),
        "## Rules",
        *_described(RULES),
    ]
    return "\n\n".join(parts)


def _described(catalogue: Mapping[str, Any]) -> Iterator[str]:
    for check in catalogue.values():
        yield f"### {check.code} {check.name} {{ #{check.code.lower()} }}"
        yield check.asks
        yield f"*Flags:* {check.flags}.\n\n*What to do:* {check.remedy}\n\n*Source:* {check.source}."


def recipes() -> str:
    """Return what a recipe may say, from its JSON Schema."""
    from ismn_cli.core.recipe_schema import stored

    schema = json.loads(stored())
    parts = [
        "# Recipes",
        "A YAML file: `task: matrix` evaluates, `task: train` trains. Everything has a default. `ismn recipes check` "
        "names all that is wrong, `ismn recipes schema` prints the JSON Schema, which is "
        "[here](recipe.schema.json) too.",
    ]
    parts_of: Mapping[str, Any] = schema["$defs"]
    for name, part in parts_of.items():
        if part.get("properties"):
            parts += [f"## {name}", part.get("description", ""), _table(part["properties"], parts_of)]
    return "\n\n".join(parts)


def _table(properties: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    rows = ["| setting | what it may be | default | meaning |", "|:--|:--|:--|:--|"]
    for name, given in properties.items():
        default = f"`{json.dumps(given['default'])}`" if "default" in given else ""
        meaning = " ".join(given.get("description", "").split())
        cells = (f"`{name}`", _listed(_kinds(given, parts)), default, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _kinds(given: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    """Return in words what a value may be; how else a number or a truth value may be written is left out."""
    if "$ref" in given:
        name = given["$ref"].rpartition("/")[2]
        part = parts[name]
        return [f"[{name}](#{name.lower()})"] if part.get("properties") else NAMED.get(name) or _kinds(part, parts)
    if "const" in given:
        return [f"`{given['const']}`"]
    several = [kind for word in ("anyOf", "oneOf", "allOf") for each in given.get(word, ()) for kind in _kinds(each, parts)]
    if several:
        return ["boolean"] if "boolean" in several else several
    if "enum" in given:
        return [f"`{value}`" for value in given["enum"]]
    if given.get("type") == "array":
        return [f"list of {_listed(_kinds(given.get('items', {}), parts)) or 'anything'}"]
    if isinstance(given.get("additionalProperties"), dict):
        return [f"by name: {_listed(_kinds(given['additionalProperties'], parts)) or 'anything'}"]
    kinds = given.get("type", "anything")
    return [kinds] if isinstance(kinds, str) else kinds[:1]


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(kind for kind in kinds if kind not in ("", "null")))
