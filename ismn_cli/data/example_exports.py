"""Adversarial examples written for other tools, in forms that `ismn_cli.data.example_files` reads."""

from __future__ import annotations

import csv
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import save

from ismn_cli.core.errors import UsageError
from ismn_cli.core.storage import write_whole, writing
from ismn_cli.data.example_files import MANIFEST, METADATA

Array = npt.NDArray[Any]
GRID = 1e-3
"""Grey levels by which a pixel may miss one for rounding alone."""
ROUNDED = (
    "PNG holds 8 bits a channel: pixels are moved by less than 1/255 towards the clean image, so that every example "
    "stays in its ball. Outcomes are those of the exact examples; npz and safetensors keep them as they are."
)
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Exported:
    """The examples of one cell."""

    adversarial: Array
    """float32 [N, C, H, W] in [0, 1]; where the attack failed, the clean image."""
    clean: Array
    """uint8 [N, C, H, W]."""
    ids: Array
    labels: Array
    outcomes: tuple[str, ...]
    predicted: Array
    """The system's answer on the adversarial image."""
    linf: Array
    l2: Array
    metadata: Mapping[str, Any]


def write_npz(place: Path, found: Exported) -> None:
    """Write arrays adversarial, clean (float32 in [0, 1]), labels, ids, outcomes, predicted, linf, l2 and metadata.

    Raises UsageError where the disk refuses.
    """
    arrays: dict[str, Any] = _arrays(found) | {"outcomes": np.array(found.outcomes), "metadata": np.array(_text(found))}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # by its name numpy would add a suffix
            np.savez(stream, **arrays)

    write_whole(place, write)


def write_safetensors(place: Path, found: Exported) -> None:
    """Write the same arrays; outcomes are whole numbers there, whose names are in the metadata. Raises UsageError."""
    names = sorted(set(found.outcomes))
    codes = np.array([names.index(outcome) for outcome in found.outcomes], dtype=np.uint8)
    metadata = {"metadata": json.dumps({**found.metadata, "outcome_names": names})}
    content = save(_arrays(found) | {"outcomes": codes}, metadata)
    write_whole(place, lambda temporary: temporary.write_bytes(content))


def write_png(place: Path, found: Exported) -> None:
    """Write a folder: adversarial/ and clean/ with a PNG image each, manifest.csv and metadata.json; see `ROUNDED`.

    Raises UsageError: a folder that is there and not empty, images that PNG cannot hold, a disk that refuses.
    """
    channels = found.clean.shape[1]
    if channels not in _MODES:
        raise UsageError(f"PNG images have 1 or 3 channels, these {channels}.", "Write --format npz.")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"'{place}' is there already.", "Give a new folder.")
    beside = place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with writing(place):
            _fill(beside, found)
            if place.is_dir():
                place.rmdir()
            beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def towards_clean(adversarial: Array, clean: Array) -> Array:
    """Return uint8 images: ``adversarial``, float32 in [0, 1], with pixels rounded towards ``clean``, uint8.

    No pixel is further from the clean one than before, so an example stays in its ball, whatever the norm.
    """
    levels = adversarial.astype(np.float64) * 255
    nearest = np.rint(levels)
    below = np.where(levels > clean, np.floor(levels), np.ceil(levels))
    rounded = np.where(np.abs(levels - nearest) <= GRID, nearest, below)
    return rounded.clip(0, 255).astype(np.uint8)


def _arrays(found: Exported) -> dict[str, Array]:
    return {
        "adversarial": np.ascontiguousarray(found.adversarial, np.float32),
        "clean": found.clean.astype(np.float32) / np.float32(255),
        "labels": found.labels.astype(np.int64),
        "ids": found.ids.astype(np.int64),
        "predicted": found.predicted.astype(np.int64),
        "linf": found.linf.astype(np.float32),
        "l2": found.l2.astype(np.float32),
    }


def _text(found: Exported) -> str:
    return json.dumps(dict(found.metadata))


def _fill(folder: Path, found: Exported) -> None:
    images = {"adversarial": towards_clean(found.adversarial, found.clean), "clean": found.clean}
    names = [f"{position:05d}-{sample}.png" for position, sample in enumerate(found.ids.tolist())]
    for kind, pixels in images.items():
        (folder / kind).mkdir(parents=True)
        for name, image in zip(names, pixels, strict=True):
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(folder / kind / name)
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "clean", "id", "label", "outcome", "predicted", "linf", "l2"])
        writer.writerows(_rows(names, found))
    noted = {**found.metadata, "rounding": ROUNDED}
    (folder / METADATA).write_text(json.dumps(noted, indent=1), encoding="utf-8")


def _rows(names: list[str], found: Exported) -> Iterator[list[object]]:
    columns = zip(
        names,
        found.ids.tolist(),
        found.labels.tolist(),
        found.outcomes,
        found.predicted.tolist(),
        found.linf.tolist(),
        found.l2.tolist(),
        strict=True,
    )
    for name, sample, label, outcome, predicted, linf, l2 in columns:
        distances = [f"{linf:.6g}", f"{l2:.6g}"]
        yield [f"adversarial/{name}", f"clean/{name}", sample, label, outcome, predicted, *distances]
