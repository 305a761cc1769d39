"""Any user's images: arrays of images and labels in .npz files, of which no pickle is ever read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ismn_cli.data.draws import split_by_hash, too_few
from ismn_cli.data.image_set import ImageSet, from_arrays
from ismn_cli.data.npz_files import Archives, ArrayError, Pair, channels_first, labels_of, pixels_of
from ismn_cli.data.places import first_time, own_place
from ismn_cli.data.problems import no_split, refusal

log = logging.getLogger(__name__)

LAYOUT = (
    "Give --data-dir FILE.npz, with the arrays images (uint8 [N, H, W, C]) and labels ([N], from 0), or x_train, "
    "y_train, x_test and y_test; or a folder with train.npz and test.npz. np.savez(file, images=..., labels=...) "
    "writes such a file."
)

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Arrays:
    """What an archive offers: for each split where its arrays are, and which of their rows are meant."""

    pairs: Mapping[str, Pair]
    labels: Mapping[str, Labels]
    """Of all rows."""
    rows: Mapping[str, list[int]]
    classes: tuple[str, ...]
    size: int
    """Pixels a side of the largest squares in the middle of the images."""
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What is to be said once, and is no error."""


def load(split: str, data_dir: Path | None = None, image_size: int | None = None) -> ImageSet:
    """Return ``train``, ``validation`` or ``test`` of the arrays in ``data_dir``, named "npz/NAME@SIZE".

    ``data_dir`` is a file or a folder with train.npz, validation.npz (val, valid) and test.npz. Pixels are uint8
    [N, C, n, n]: the largest square in the middle, resized to ``image_size`` by an antialiased bilinear filter
    where that is another. Without validation it is a tenth of each class of train, drawn by hash; images without
    any split are divided 80/10/10. ids are the rows of their array. Classes are an array ``classes`` of names, else
    the numbers. Sets with one channel are not mirrored in training.
    Raises UsageError: no such file, an unknown split; all that is wrong with the arrays, in one list.
    """
    place = own_place("npz", data_dir, LAYOUT)
    try:
        with Archives(place) as archives:
            arrays = _arrays(archives, image_size)
            if arrays.problems:
                raise refusal(str(place), arrays.problems, LAYOUT)
            if split not in arrays.pairs:
                raise no_split(str(place), split, arrays.pairs)
            for note in arrays.notes:
                if first_time(place, note):
                    log.warning("%s: %s.", place, note)
            return _image_set(arrays, place, split, image_size or arrays.size)
    except ArrayError as error:
        raise refusal(str(place), [str(error)], LAYOUT) from None


def _arrays(archives: Archives, image_size: int | None) -> Arrays:
    labels: dict[str, Labels] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    for name, pair in archives.pairs.items():
        try:
            labels[name] = labels_of(pair.labels.read())
            shapes[name] = channels_first(pair.images.header()).shape
        except ArrayError as error:
            problems.append(f"{name}: {error}")
            continue
        if shapes[name][0] != len(labels[name]):
            problems.append(f"{name}: {shapes[name][0]:,} images and {len(labels[name]):,} labels")
    problems += _shape_problems(shapes, image_size)
    classes, more = _classes(archives, labels)
    if problems or more:
        return Arrays({}, {}, {}, (), 0, (*problems, *more))
    return _split(archives.pairs, labels, classes, min(shapes.popitem()[1][2:]))


def _shape_problems(shapes: Mapping[str, tuple[int, ...]], image_size: int | None) -> list[str]:
    """Return a line where the splits differ in what must be the same for a net."""
    kinds = {(shape[1], None if image_size else min(shape[2:])) for shape in shapes.values()}
    if len(kinds) < 2:
        return []
    return ["the splits differ in shape: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())]


def _classes(archives: Archives, labels: Mapping[str, Labels]) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the classes, and what is wrong with the labels in view of them."""
    highest = max((int(found.max()) for found in labels.values() if found.size), default=-1)
    images = sum(found.size for found in labels.values())
    if archives.classes:
        names = tuple(map(str, archives.classes.read().tolist()))
    else:
        names = tuple(map(str, range(min(highest + 1, images))))
    if highest >= len(names):
        most = f"for {len(names):,} classes" if archives.classes else f"of {images:,} images"
        return names, [f"labels are out of range: the highest is {highest} {most}"]
    wanted = _to_draw(labels)
    return names, [problem for name, found in labels.items() for problem in _label_problems(name, found, names, wanted)]


def _label_problems(split: str, labels: Labels, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    there = np.unique(labels).tolist()
    if len(there) < 2:
        only = f"only images of class {names[there[0]]}" if there else "no images"
        return [f"{split} has {only}"]
    if split not in ("train", "all"):
        return []
    gone = sorted(set(range(len(names))) - set(there))
    few = too_few(labels.tolist(), wanted)
    problems = [f"{split} has too few images of class {names[label]} to be split" for label in few]
    return [f"{split} has no images of class {names[label]}" for label in gone] + problems


def _split(pairs: Mapping[str, Pair], labels: Mapping[str, Labels], classes: tuple[str, ...], size: int) -> Arrays:
    """Draw the splits that are not there from train, or from all."""
    pairs, labels, notes = dict(pairs), dict(labels), list[str]()
    if set(pairs) == {"train", "validation"}:
        pairs["test"], labels["test"] = pairs.pop("validation"), labels.pop("validation")
        notes.append("there are no test arrays: those to validate stand for them")
    rows = {name: list(range(len(found))) for name, found in labels.items()}
    whole = "all" if "all" in pairs else "train"
    wanted = _to_draw(pairs)
    if wanted and whole in pairs:
        drawn = split_by_hash(labels[whole].tolist(), rows[whole], wanted)
        for name, chosen in drawn.items():
            pairs[name], labels[name], rows[name] = pairs[whole], labels[whole], chosen
        pairs.pop("all", None)
        counts = ", ".join(f"{len(chosen):,} for {name}" for name, chosen in drawn.items())
        notes.append(f"{whole} is split by a hash of its rows: {counts}")
    return Arrays(pairs, labels, rows, classes, size, (), tuple(notes))


def _to_draw(given: Iterable[str]) -> list[str]:
    """Return the splits that are not there and can be drawn from train, or from all."""
    return [name for name in ("validation", "test") if name not in given]


def _image_set(arrays: Arrays, place: Path, split: str, size: int) -> ImageSet:
    pair, rows = arrays.pairs[split], arrays.rows[split]
    pixels = np.empty((len(rows), channels_first(pair.images.header()).shape[1], size, size), np.uint8)
    for positions, images in pair.images.parts(np.array(rows, np.int64)):
        pixels[positions] = pixels_of(images, size)
    labels = arrays.labels[split][rows]
    name = f"npz/{_stem(place.absolute()).replace('@', '-')}"
    return from_arrays(name, split, pixels, labels, arrays.classes, rows)


def _stem(place: Path) -> str:
    return place.stem if place.is_file() else place.name
