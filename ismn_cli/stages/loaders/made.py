"""What every loader gives, and what they share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice

if TYPE_CHECKING:
    from torch import nn


class Made(NamedTuple):
    """A model as it was made or found, before any normalisation."""

    net: nn.Module
    code: str
    """What pins it besides its tensors: a hash of its source, of its file, or its name in a library."""
    origin: str
    """Where its weights come from, in words."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """What its weights say that they were trained behind, where they say so."""


def place_of(choice: ModelChoice, path: str | Path) -> Path:
    """Return where a path of the user's leads, as it was written where that will do."""
    written = Path(path).expanduser()
    return written if choice.folder in (None, Path.cwd()) else choice.folder / written


def checkpoint_of(choice: ModelChoice) -> Path | None:
    """Return the file of weights, where one is given."""
    return None if choice.checkpoint is None else place_of(choice, choice.checkpoint)


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def given_file(choice: ModelChoice) -> Path:
    """Return the file that is itself the model. Raises UsageError: there is none, or something is given besides."""
    path = place_of(choice, choice.reference)
    if not path.is_file():
        where = choice.folder or Path.cwd()
        raise UsageError(f"There is no file {choice.reference}.", f"The path is taken from {where}.")
    if choice.arguments or choice.checkpoint:
        option = "--model-arg" if choice.arguments else "--checkpoint"
        raise UsageError(
            f"{choice.reference} is a whole model: {option} would change nothing.",
            "Leave it away, or name the code: --model path/to/file.py:Name --checkpoint FILE",
        )
    return path


def no_such(library: str, name: str, known: Iterable[str], see: str) -> UsageError:
    """Return the error for a name that a library does not know; it may know too many to list."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"{library} has no model called '{name}'.", f"{hint}See {see}.")
