"""Torchvision's own image sets by name, read by torchvision, which checks what it downloads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision

from ismn_cli.core.errors import UsageError
from ismn_cli.core.torchvision_sets import PREFIX, SETS, Arguments, TorchvisionSet
from ismn_cli.data import cifar10_files as files
from ismn_cli.data.download import STALLED_AFTER, patience
from ismn_cli.data.draws import split_by_hash
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.items import Labels, Pixels, class_names, image_set, stacked
from ismn_cli.data.places import first_time, home_data, roots
from ismn_cli.data.problems import no_split, refusal

SPLITS = ("train", "validation", "test")
LINE = 160
"""Characters of what torchvision says that are told."""
HOW = ". You can use download=True to download it"
"""What it says to who calls it, not to who types a command."""


@dataclass(frozen=True)
class Rows:
    """The rows of one of torchvision's splits that are meant: all of them, or one of the ``drawn`` parts."""

    asked: Arguments
    part: str = ""
    drawn: tuple[str, ...] = ()


def load(split: str, data_dir: Path | None = None, image_size: int | None = None, *, which: str) -> ImageSet:
    """Return ``train``, ``validation`` or ``test`` of ``torchvision.datasets``' class, named "torchvision:NAME@SIZE".

    Pixels are uint8 [N, C, n, n]: the largest square in the middle of each image, resized by an antialiased bilinear
    filter to ``image_size``; without it to 128, unless all images are squares of one smaller size. ids are the
    positions in torchvision's split. Without a validation split a tenth of each class of its training images is
    drawn for it by a seeded hash, without a test split another tenth. The files are looked for where torchvision
    puts them in ``data_dir``, in ISMN_DATA_DIR and in the home folder; if they are nowhere, torchvision downloads
    them to the home folder. Raises UsageError: an unknown split, no files and no network, damaged files.
    """
    if split not in SPLITS:
        raise no_split(PREFIX + which, split, SPLITS)
    known = SETS[which]
    wanted = rows_of(known, split)
    found = _opened(which, wanted.asked, data_dir)
    pixels, labels = _read(found, which, image_size)
    if len(labels) and int(labels.max()) >= known.classes:
        raise refusal(PREFIX + which, [f"a label is {int(labels.max())}; it has {known.classes} classes"])
    rows = split_by_hash(labels.tolist(), range(len(labels)), wanted.drawn)[wanted.part] if wanted.part else None
    classes = class_names(getattr(found, "classes", None), known.classes)
    return image_set(PREFIX + which, split, pixels, labels, classes, rows)


def rows_of(known: TorchvisionSet, split: str) -> Rows:
    """Return which of torchvision's images a split is."""
    own = {"train": known.train, "validation": known.validation, "test": known.test}
    drawn = tuple(name for name in SPLITS[1:] if own[name] is None)
    asked = own[split]
    if asked is None or (split == "train" and drawn):
        return Rows(known.train, split, drawn)
    return Rows(asked)


def not_here(which: str, data_dir: Path | None) -> UsageError | None:
    """Return the error for files that are not on this machine, or not whole; None where all are. No download."""
    for split in SPLITS:
        reason = _first_here(which, rows_of(SETS[which], split).asked, data_dir)
        if isinstance(reason, str):
            return _absent(which, reason, data_dir)
    return None


def _opened(which: str, asked: Arguments, data_dir: Path | None) -> Any:
    found = _first_here(which, asked, data_dir)
    if not isinstance(found, str):
        return found
    files.log.info("%s is not on this machine: torchvision downloads it to %s.", which, home_data())
    try:
        with patience(STALLED_AFTER), contextlib.redirect_stdout(sys.stderr):
            home_data().mkdir(parents=True, exist_ok=True)
            return _class(which)(root=str(home_data()), download=True, **asked)
    except Exception as error:
        raise _absent(which, f"it could not be downloaded ({_told(error)})", data_dir) from None


def _first_here(which: str, asked: Arguments, data_dir: Path | None) -> Any:
    """Return torchvision's data set from the first folder that has it; the reason, a text, where none has."""
    reasons: list[str] = []
    for root in roots(data_dir, lambda root: _where(which, root)):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                found = _class(which)(root=str(root), download=False, **asked)
        except Exception as error:  # a malformed file may raise anything at all
            reasons.append(f"{root}: {_told(error)}")
            continue
        if reasons and first_time(PREFIX + which, *reasons):
            files.log.warning("%s is taken from %s (%s).", which, root, "; ".join(reasons))
        return found
    return "; ".join(reasons)


def _class(which: str) -> Any:
    return getattr(torchvision.datasets, which)


def _read(found: Any, which: str, size: int | None) -> tuple[Pixels, Labels]:
    try:
        return stacked(_items(found), size)
    except Exception as error:  # a malformed file may raise anything at all
        raise refusal(PREFIX + which, [_told(error)], "Remove that copy, or give another --data-dir.") from None


def _items(found: Sequence[Any]) -> Iterator[Any]:
    return (found[i] for i in range(len(found)))


def _told(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(HOW)
    return first if len(first) <= LINE else f"{first[:LINE]}..."


def _where(which: str, root: Path) -> str:
    return f"Put torchvision's files there: torchvision.datasets.{which}(root='{root}', ...) reads them."


def _absent(which: str, reason: str, data_dir: Path | None) -> UsageError:
    return UsageError(f"{which} is not on this machine: {reason}.", _where(which, data_dir or home_data()))
