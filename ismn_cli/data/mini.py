"""cifar10-mini: 1,000 real test images of CIFAR-10, 100 a class, inside the package.

How they were drawn: of the 10,000 test images, the 18 that were not the original pixels in the copy at hand
were taken out (``left_out`` in ``cifar10_mini.json``); of the rest, `ImageSet.select` with limit 1,000 and
seed 2021 gave 100 of each class, here in the order of their ids. The sheet is a PNG, thus lossless, of 25
rows of 40 images of 32 x 32 pixels. Every load checks the sha256 in the
JSON, which is the `content_hash` of labels and pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.data.image_set import ImageSet, content_hash

SHEET = Path(__file__).with_name("cifar10_mini.png")
INDEX = Path(__file__).with_name("cifar10_mini.json")
ROWS, COLUMNS = 25, 40


def load(split: str, data_dir: Path | None = None) -> ImageSet:
    """Return the 1,000 images, uint8 [1000, 3, 32, 32]; ids are the indices in CIFAR-10's test set.

    ``data_dir`` is not looked at: the images come with ismn. Raises UsageError for ``train`` and
    ``validation``, which it must never have, for an unknown split and for a damaged installation.
    """
    if split in ("train", "validation"):
        raise UsageError(
            "cifar10-mini can never be trained on; it is test images only.", "Use --dataset cifar10."
        )
    if split != "test":
        raise unknown_name("split of cifar10-mini", split, ["test"])
    try:
        index = json.loads(INDEX.read_text())
        labels = np.array(index["labels"], np.uint8)
        with Image.open(SHEET) as sheet:
            pixels = tiles(np.asarray(sheet.convert("RGB")))
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(str(error)) from None
    if content_hash(labels, pixels) != index["sha256"]:
        raise _damaged("its checksum differs")
    return ImageSet(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels.astype(np.int64)),
        name="cifar10-mini",
        split=split,
        ids=torch.tensor(index["ids"]),
        classes=tuple(index["classes"]),
        data_hash=index["sha256"],
        total=len(labels),
        family="cifar10",
    )


def tiles(sheet: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut a sheet [ROWS * 32, COLUMNS * 32, 3] into images [ROWS * COLUMNS, 3, 32, 32], row by row."""
    grid = sheet.reshape(ROWS, 32, COLUMNS, 32, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(grid).reshape(ROWS * COLUMNS, 3, 32, 32)


def _damaged(reason: str) -> UsageError:
    return UsageError(
        f"The images of cifar10-mini in {SHEET.parent} are damaged: {reason}.", "Reinstall ismn."
    )
