"""The released weights: which there are, how they were trained, and what was measured with them. No torch."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import Environment
from ismn_cli.core.specs import Frozen

MANIFEST = "manifest.json"


class Released(Frozen):
    """One released system. Accuracies were measured on all test images with the rounded weights."""

    file: str
    sha256: str
    """Of the file."""
    tensors: str
    """sha256 over the tensors of the whole system as they are loaded: fp16 rounded, in float32."""
    system: str
    config: dict[str, JsonValue]
    base: str | None
    """Name of the entry that holds the base classifier; None where this file holds it."""
    recipe: dict[str, JsonValue]
    dataset: str
    data: str
    """Content hash of the training images."""
    images: int
    """Number of training images."""
    epochs: dict[str, int]
    """Of each stage."""
    environment: Environment
    measured: dict[str, float]
    training: dict[str, dict[str, float]]
    """Closing figures of each stage."""
    training_seconds: float | None = None
    """Wall time of the stages, where it was recorded."""
    notes: tuple[str, ...] = ()


_ENTRIES = TypeAdapter(dict[str, Released])


def released_folder() -> Path:
    """Return the folder of the released weights, inside the installed package."""
    spec = importlib.util.find_spec("ismn_models")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("The package ismn_models is not installed.", "Reinstall: pip install ismn-cli")
    return Path(spec.submodule_search_locations[0]) / "weights"


def read_manifest(folder: Path) -> dict[str, Released]:
    """Return the entries by name; none where nothing was released. Raises UsageError if it cannot be read."""
    try:
        return _ENTRIES.validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        reason = type(error).__name__
        raise UsageError(f"{folder / MANIFEST} cannot be read ({reason}).", "Reinstall ismn.") from None


def manifest_text(entries: dict[str, Released]) -> str:
    """Return the manifest as it is written."""
    return _ENTRIES.dump_json(entries, indent=2).decode() + "\n"


def file_hash(path: Path) -> str:
    """Return the sha256 of a file. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def released_file(folder: Path, entry: Released) -> Path:
    """Return the whole, unchanged file of a released system. Raises UsageError."""
    path = folder / entry.file
    train = f"Reinstall ismn, or train your own: ismn train --system {entry.system}"
    try:
        whole = file_hash(path) == entry.sha256
    except OSError as error:
        raise UsageError(f"The released weights {path} are missing ({error.strerror}).", train) from None
    if not whole:
        raise UsageError(f"The released weights {path} are not the ones in the manifest.", train)
    return path
