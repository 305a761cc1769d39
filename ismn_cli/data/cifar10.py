"""CIFAR-10 (Krizhevsky 2009) with MagNet's split: the first 5,000 training images are for validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ismn_cli.core.errors import unknown_name
from ismn_cli.data import cifar10_files as files
from ismn_cli.data.image_set import ImageSet, content_hash
from ismn_cli.data.places import home_data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class _Split:
    batches: tuple[str, ...]
    start: int
    stop: int


SPLITS = {
    "train": _Split(files.TRAIN_BATCHES, 5_000, 50_000),
    "validation": _Split(files.TRAIN_BATCHES[:1], 0, 5_000),
    "test": _Split(files.TEST_BATCHES, 0, 10_000),
}


def load(split: str, data_dir: Path | None = None) -> ImageSet:
    """Return ``train`` (45,000), ``validation`` (5,000) or ``test`` (10,000), in the original order.

    Pixels are uint8 [N, 3, 32, 32]; ids are the indices in the original training or test set. The files are
    looked for in ``data_dir``, in ISMN_DATA_DIR and in the home folder; if they are nowhere, they are
    downloaded to the home folder. A copy that is not the original is used with one warning.
    Raises UsageError: an unknown split, no files and no network, a damaged file.
    """
    if split not in SPLITS:
        raise unknown_name("split of cifar10", split, SPLITS)
    part = SPLITS[split]
    copy = files.find_copy(part.batches, data_dir) or _downloaded(part, data_dir)
    labels, pixels = _read(copy, part)
    return ImageSet(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels.astype(np.int64)),
        name="cifar10",
        split=split,
        ids=torch.arange(part.start, part.stop),
        classes=CLASSES,
        data_hash=content_hash(labels, pixels),
        total=len(labels),
    )


def _downloaded(part: _Split, data_dir: Path | None) -> files.Copy:
    from ismn_cli.data import download  # noqa: PLC0415 - torchvision takes seconds to import

    files.log.info("CIFAR-10 is not on this machine: downloading 163 MB to %s.", home_data())
    try:
        download.download(home_data())
    except download.DownloadError as error:
        raise files.not_found(str(error), data_dir) from None
    copy = files.find_copy(part.batches, data_dir)
    if copy is None:
        raise files.not_found("the archive holds other files than expected", data_dir)
    return copy


def _read(copy: files.Copy, part: _Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Fill one array, a file at a time: at most one file is held beside it."""
    count = part.stop - part.start
    labels, pixels = np.empty(count, np.uint8), np.empty((count, 3, 32, 32), np.uint8)
    md5 = {}
    for number, batch in enumerate(part.batches):
        batch_labels, batch_pixels, md5[batch] = copy.read(batch)
        offset = number * files.BATCH
        start, stop = max(part.start, offset), min(part.stop, offset + files.BATCH)
        here, there = slice(start - part.start, stop - part.start), slice(start - offset, stop - offset)
        labels[here], pixels[here] = batch_labels[there], batch_pixels[there]
    files.warn_of_changes(copy, md5)
    return labels, pixels
