"""Adversarial examples in files, made here or elsewhere: .npz, .npy, .safetensors, or a folder of PNG images.

Arrays go by these names, in this order, upper case or not:

    adversarial  adversarial, adversarials, x_adv, adv_x, adv, advs, examples; else images, x, data
    labels       labels, label, y, y_true, y_test, targets            [N] whole numbers from 0, or one-hot [N, K]
    ids          ids, id, index, indices, idx                         [N] indices in the data set
    clean        clean, x_clean, clean_images, original, originals; beside adversarial also images, x, x_test
    layout       layout: "nchw" or "nhwc", where the shape alone leaves it open

A folder has PNG files, in the order of their names, or a manifest.csv with the columns file, and perhaps id, label
and clean.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ismn_cli.core.errors import UsageError
from ismn_cli.data.npz_files import BROKEN
from ismn_cli.data.pictures import decode, examine, is_web_page
from ismn_cli.data.problems import refusal

Array = npt.NDArray[Any]
ADVERSARIAL = ("adversarial", "adversarials", "x_adv", "adv_x", "adv", "advs", "examples")
PLAIN = ("images", "x", "data")
LABELS = ("labels", "label", "y", "y_true", "y_test", "targets")
IDS = ("ids", "id", "index", "indices", "idx")
CLEAN = ("clean", "x_clean", "clean_images", "original", "originals")
BESIDE = ("images", "x", "x_test")
"""Names of clean images, where the adversarial ones have a name of their own."""
MANIFEST, METADATA = "manifest.csv", "metadata.json"
FORMS = (
    "Give a file .npz or .safetensors with the arrays x_adv [N, C, H, W] or [N, H, W, C], and perhaps y and ids, as in "
    "np.savez('adv.npz', x_adv=x, y=y); or a folder of PNG images."
)


@dataclass(frozen=True)
class Given:
    """What a file holds, as it is: nothing is checked but that it can be read."""

    place: Path
    sha256: str
    """Of the file; of a folder over the names and bytes of its images and its manifest."""
    adversarial: Array
    labels: Array | None = None
    ids: Array | None = None
    clean: Array | None = None
    layout: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What `ismn export` noted beside them."""
    unread: tuple[str, ...] = ()
    """Arrays of other names."""


def read_examples(place: Path) -> Given:
    """Return what ``place`` holds; no pickle is ever read. Raises UsageError: nothing there, or damaged."""
    place = place.expanduser()
    if place.is_dir():
        return _read_folder(place)
    if not place.is_file():
        raise UsageError(f"There is no file or folder '{place}'.", "The path is taken from the current folder.")
    readers = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors}
    reader = readers.get(place.suffix.lower())
    if reader is None:
        raise UsageError(f"Examples cannot be read from '{place.name}'.", FORMS)
    try:
        arrays, metadata = reader(place)
    except BROKEN as error:
        reason = "it is a web page" if place.stat().st_size and is_web_page(place) else _reason(error)
        raise UsageError(f"'{place}' cannot be read: {reason}.", FORMS) from None
    return _given(place, arrays, metadata)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "it holds Python objects, not numbers" if "pickle" in text else text


def _read_npz(place: Path) -> tuple[dict[str, Array], str]:
    with np.load(place, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    return arrays, str(arrays.pop("metadata", ""))


def _read_npy(place: Path) -> tuple[dict[str, Array], str]:
    return {"adversarial": np.asarray(np.load(place, allow_pickle=False))}, ""


def _read_safetensors(place: Path) -> tuple[dict[str, Array], str]:
    try:
        with safe_open(place, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, TypeError) as error:
        raise ValueError(str(error)) from None
    return arrays, metadata.get("metadata", "")


def _given(place: Path, arrays: Mapping[str, Array], metadata: str) -> Given:
    names = {name.lower(): name for name in arrays}
    own = _first(names, ADVERSARIAL)
    found = own or _first(names, PLAIN)
    if found is None:
        raise UsageError(f"'{place}' has no adversarial examples, but {', '.join(arrays) or 'nothing'}.", FORMS)
    chosen = {
        "adversarial": found,
        "labels": _first(names, LABELS),
        "ids": _first(names, IDS),
        "clean": _first(names, (*CLEAN, *BESIDE) if own else CLEAN),
        "layout": _first(names, ("layout",)),
    }
    held: dict[str, Any] = {what: arrays[name] for what, name in chosen.items() if name is not None}
    if "layout" in held:
        held["layout"] = str(held["layout"]).lower()
    noted = _metadata(metadata)
    held.setdefault("layout", noted.get("layout"))
    unread = tuple(name for name in arrays if name not in chosen.values())
    return Given(place, file_sha256(place), metadata=noted, unread=() if noted else unread, **held)


def _first(names: Mapping[str, str], wanted: Iterable[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder_sha256(root: Path, names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n{file_sha256(root / name)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_folder(root: Path) -> Given:
    rows = _manifest(root)
    files = [row["file"] for row in rows]
    clean = [row["clean"] for row in rows if row.get("clean")]
    images = _images(root, files)
    listed = [MANIFEST] if (root / MANIFEST).is_file() else []
    noted = root / METADATA
    return Given(
        root,
        _folder_sha256(root, (*files, *clean, *listed)),
        images,
        labels=_column(root, rows, ("label", *LABELS)),
        ids=_column(root, rows, ("id", *IDS)),
        clean=_images(root, clean) if len(clean) == len(rows) else None,
        layout="nchw",
        metadata=_metadata(noted.read_text(encoding="utf-8", errors="replace")) if noted.is_file() else {},
    )


def _manifest(root: Path) -> list[dict[str, str]]:
    """Return a row for each image; without a manifest the PNG files by name. Raises UsageError."""
    path = root / MANIFEST
    if not path.is_file():
        names = sorted(file.name for file in root.iterdir() if file.suffix.lower() == ".png")
        if not names:
            raise UsageError(f"There are no PNG images in '{root}', and no {MANIFEST}.", FORMS)
        return [{"file": name} for name in names]
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [
                {str(name).strip().lower(): str(value or "").strip() for name, value in row.items()}
                for row in csv.DictReader(stream)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"'{path}' cannot be read: {error}.", "It should be CSV text.") from None
    lacking = [number for number, row in enumerate(rows, 1) if not row.get("file")]
    if not rows or lacking:
        where = f" in row {lacking[0]}" if lacking else ""
        raise UsageError(f"'{path}' names no image{where}.", "It needs a column file.")
    _check_inside(root, [row[name] for row in rows for name in ("file", "clean") if row.get(name)])
    return rows


def _check_inside(root: Path, names: Sequence[str]) -> None:
    """Raise UsageError for a name that leads out of the folder: a manifest is a stranger's text."""
    for name in names:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise UsageError(f"'{name}' in {root / MANIFEST} is outside the folder.", "Name files inside it.")


def _images(root: Path, names: Sequence[str]) -> Array:
    """Return uint8 [N, C, H, W]. Raises UsageError naming every file that cannot be used."""
    problems, found = [], set()
    for name in names:
        header = examine(root / name, full=True)
        if isinstance(header, str):
            problems.append(f"{name} {header}")
        elif Path(name).suffix.lower() != ".png":
            problems.append(f"{name} is no PNG: other formats lose what an attack has made")
        else:
            found.add(header)
    if len(found) > 1:
        told = ", ".join(f"{h.width}x{h.height} with {h.channels} channels" for h in sorted(found))
        problems.append(f"its images are not alike: {told}")
    if problems or not found:
        raise refusal(str(root), problems or ["it has no images"], FORMS)
    (header,) = found
    if header.width != header.height:
        raise refusal(str(root), [f"its images are {header.width}x{header.height}, not square"], FORMS)
    return np.stack([decode(root / name, header.channels, header.width) for name in names])


def _column(root: Path, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> Array | None:
    name = next((name for name in names if name in rows[0]), None)
    if name is None:
        return None
    try:
        return np.array([int(row[name]) for row in rows])
    except ValueError as error:
        raise UsageError(f"Column {name} of {root / MANIFEST} is not of whole numbers: {error}.", FORMS) from None
