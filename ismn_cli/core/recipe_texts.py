"""The text of a recipe, ready to be edited: with its comments, and a first line that tells editors its schema."""

from __future__ import annotations

from pathlib import Path

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipe_files import find_recipe
from ismn_cli.core.recipe_schema import FILE

HEADER = "# yaml-language-server: $schema="


def header() -> str:
    """Return the line that tells an editor where the schema of this installation is, wherever the recipe lies."""
    return f"{HEADER}{FILE.as_uri()}"


def recipe_text(name_or_path: str) -> str:
    """Return the text of a recipe, comments and all, its schema named as in `header`. Raises UsageError."""
    place = find_recipe(name_or_path)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read recipe '{place}': {error}.", "It should be YAML text.") from None
    first, newline, rest = text.partition("\n")
    # a path relative to the file leads nowhere from where it is copied to
    return f"{header()}\n{rest}" if first.startswith(HEADER) and newline else text


def copy_recipe(name_or_path: str, destination: Path, force: bool) -> Path:
    """Write the text of a recipe to a new file, or into a folder under its own name; return the file.

    Raises UsageError: no such recipe, no such folder, something is there already and is not to be replaced.
    """
    source = find_recipe(name_or_path)
    place = destination / source.name if destination.is_dir() else destination
    text = recipe_text(name_or_path)
    if place.exists() and place.samefile(source):
        raise UsageError(f"'{place}' is the recipe itself.", "Give another file.")
    try:
        with place.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"'{place}' is there already.", "Give another file, or replace it: --force") from None
    except FileNotFoundError:
        raise UsageError(f"There is no folder '{place.parent}'.", "Make it first, or give another file.") from None
    return place
