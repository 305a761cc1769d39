"""MNIST (LeCun et al. 1998) with MagNet's split: the first 5,000 training images are for validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ismn_cli.core.errors import unknown_name
from ismn_cli.data import mnist_files as files
from ismn_cli.data.image_set import ImageSet, content_hash
from ismn_cli.data.places import home_data

CLASSES = tuple(map(str, range(10)))
VALIDATION = 5_000
SPLITS = {
    "train": ("train", slice(VALIDATION, None)),
    "validation": ("train", slice(VALIDATION)),
    "test": ("t10k", slice(None)),
}


def load(split: str, data_dir: Path | None = None) -> ImageSet:
    """Return ``train`` (55,000), ``validation`` (5,000) or ``test`` (10,000), in the original order.

    Pixels are uint8 [N, 1, 28, 28]; ids are the indices in the original training or test set; training does not
    mirror them. The files, packed (.gz) or not, are looked for in ``data_dir``, in ISMN_DATA_DIR and in the home
    folder; if they are nowhere, they are downloaded to the home folder. A copy that is not the original is used
    with one warning. Raises UsageError: an unknown split, no files and no network, a damaged file.
    """
    if split not in SPLITS:
        raise unknown_name("split of mnist", split, SPLITS)
    part, chosen = SPLITS[split]
    copy = files.find_copy(part, data_dir) or _downloaded(part, data_dir)
    pixels, labels = (array[chosen] for array in copy.read(part))
    return ImageSet(
        pixels=torch.from_numpy(pixels[:, None]),
        labels=torch.from_numpy(labels.astype(np.int64)),
        mirror=False,
        name="mnist",
        split=split,
        ids=torch.arange(files.COUNTS[part])[chosen],
        classes=CLASSES,
        data_hash=content_hash(labels, pixels),
        total=len(labels),
    )


def _downloaded(part: str, data_dir: Path | None) -> files.Copy:
    from ismn_cli.data import download  # noqa: PLC0415 - torchvision takes seconds to import

    folder = home_data() / files.TORCHVISION
    files.log.info("MNIST is not on this machine: downloading 11 MB to %s.", folder)
    try:
        download.download_mnist(folder)
    except download.DownloadError as error:
        raise files.not_found(f"could not be downloaded ({error})", data_dir) from None
    copy = files.find_copy(part, data_dir)
    if copy is None:
        raise files.not_found("is not what the server gave", data_dir)
    return copy
