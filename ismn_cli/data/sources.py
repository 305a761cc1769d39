"""Sets of image files: what a folder offers before anything is decoded, and from there to an `ImageSet`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ismn_cli.data.decoded import Decoded, Problem, Survey, decoded, survey
from ismn_cli.data.draws import split_by_hash, too_few
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.places import first_time
from ismn_cli.data.problems import no_split, refusal

log = logging.getLogger(__name__)

DEFAULT_SIZE = 128
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
"""Split -> what it is called in a user's own folders and tables."""


@dataclass(frozen=True)
class Part:
    """The images of one split."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Image files with labels, in splits, and what is wrong with them so far."""

    name: str
    """With what was chosen of the data set, less the size: "folder/faces"."""
    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    size: int | None
    """Pixels a side, where they were chosen."""
    channels: int | None = None
    """3 where the images must be in colour."""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What is to be said once, and is no error."""
    hint: str = ""
    listed: tuple[str, ...] = ()
    """Every image that the set names, in ``folder``, where the splits have only some of them."""
    folder: Path = Path()
    enlarged: str = field(default="they are enlarged", kw_only=True)
    """What to say of images smaller than the size."""

    def files(self) -> list[Path]:
        """Return every image that the set names."""
        if self.listed:
            return [self.folder / name for name in self.listed]
        return [path for part in self.parts.values() for path in part.files]

    def inside(self, problems: Sequence[Problem]) -> list[str]:
        """Return problems of files as lines, each file by its path in ``root``."""
        return [f"{_short(Path(path), self.root)} {wrong}" for path, wrong in problems]


def image_set(source: Source, split: str) -> ImageSet:
    """Return a split, uint8 [N, C, n, n]: the middle square of every image, resized; mapped from disk.

    ``data_hash`` is the sha256 of the labels (int64) and of the sha256 of the pixels, so that they need not be read.
    Raises UsageError: an unknown split; all that is wrong with any split, before one image is decoded.
    """
    surveys = {name: survey(part.files) for name, part in source.parts.items()}
    problems = list(source.problems)
    problems += [line for _, found in surveys.values() for line in source.inside(found)]
    seen = merged([found for found, _ in surveys.values()])
    problems += channel_problems(source, seen)
    if problems:
        raise refusal(str(source.root), list(dict.fromkeys(problems)), source.hint)
    if split not in source.parts:
        raise no_split(source.name, split, source.parts)
    channels, size = channels_of(source, seen), source.size or own_size(seen)
    _tell(source, seen, size)
    images, broken = decoded(source.parts[split].files, channels, size)
    if images is None:
        raise refusal(str(source.root), source.inside(broken), source.hint)
    return _labelled(source, split, images)


def _labelled(source: Source, split: str, images: Decoded) -> ImageSet:
    part, size = source.parts[split], images.pixels.shape[-1]
    digest = hashlib.sha256(np.array(part.labels, "<i8").tobytes() + bytes.fromhex(images.sha256))
    return ImageSet(
        pixels=images.pixels,
        labels=torch.tensor(part.labels),
        # what is grey is often a digit or a letter, which a mirror makes another
        mirror=images.pixels.shape[1] == 3,
        name=f"{source.name}@{size}",
        split=split,
        ids=torch.tensor(part.ids),
        classes=source.classes,
        data_hash=digest.hexdigest(),
        total=len(part.ids),
    )


def channel_problems(source: Source, seen: Survey) -> list[str]:
    """Return the images that have not as many channels as the set."""
    count = sum(seen.sizes.values())
    if not seen.grey or (source.channels is None and len(seen.grey) == count):
        return []
    if source.channels is None and 2 * len(seen.grey) > count:
        return [f"{count - len(seen.grey):,} of {count:,} images are in colour, the others grey"]
    return source.inside([(path, "is grey (1 channel); the set is in colour") for path in seen.grey])


def channels_of(source: Source, seen: Survey) -> int:
    """Return the channels of the set."""
    return source.channels or (1 if seen.grey else 3)


def merged(surveys: Sequence[Survey]) -> Survey:
    """Return what several surveys found together."""
    sizes: dict[tuple[int, int], int] = {}
    for found in surveys:
        for size, count in found.sizes.items():
            sizes[size] = sizes.get(size, 0) + count
    return Survey(tuple(path for found in surveys for path in found.grey), sizes)


def own_size(seen: Survey) -> int:
    """Return the size where none was chosen: the images' own, if all are squares of one size up to 128; else 128."""
    if len(seen.sizes) == 1:
        ((width, height),) = seen.sizes
        if width == height <= DEFAULT_SIZE:
            return width
    return DEFAULT_SIZE


def _tell(source: Source, seen: Survey, size: int) -> None:
    for note in source.notes:
        if first_time(source.root, note):
            log.warning("%s", note)
    small = sum(count for shape, count in seen.sizes.items() if min(shape) < size)
    if small and first_time(source.root, "size", size):
        largest = max(min(shape) for shape in seen.sizes)
        log.info("%s of %s images of %s have fewer than %d pixels a side (the largest %d): %s.", f"{small:,}",
                 f"{sum(seen.sizes.values()):,}", source.name, size, largest, source.enlarged)  # fmt: skip


def _short(path: Path, root: Path) -> str:
    text = str(path.relative_to(root) if path.is_relative_to(root) else path)
    # a name need not be text
    return text.encode(errors="replace").decode()


def with_all_splits(found: Source) -> Source:
    """Return the source with the splits that it lacks, validation and test, drawn from train by hash."""
    wanted = [name for name in SPLITS if name not in found.parts]
    if "train" not in found.parts or not wanted:
        return found
    train = found.parts["train"]
    keys = [path.relative_to(found.root).as_posix() for path in train.files]
    drawn = split_by_hash(train.labels, keys, wanted)
    parts = {name: _chosen(train, drawn[name]) if name in drawn else found.parts[name] for name in SPLITS}
    counts = ", ".join(f"{len(drawn[name]):,} for {name}" for name in drawn)
    note = f"{found.name} is split by a hash of its files' names: {counts}."
    few = [found.classes[label] for label in too_few(train.labels, wanted)]
    problems = [f"{name} has too few images to be split: {len(wanted) + 1} are the least" for name in few]
    return replace(found, parts=parts, notes=(*found.notes, note), problems=(*found.problems, *problems))


def _chosen(part: Part, positions: Sequence[int]) -> Part:
    return Part(
        tuple(part.files[i] for i in positions),
        tuple(part.labels[i] for i in positions),
        tuple(part.ids[i] for i in positions),
    )
