"""MNIST's files: where they are looked for, their format, and whether they are the originals.

The checksums are those of the unpacked files; of the packed ones torchvision has others, which a copy that was
packed again does not have.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ismn_cli.core.errors import UsageError
from ismn_cli.data.places import first_time, home_data, roots

log = logging.getLogger(__name__)

COUNTS = {"train": 60_000, "t10k": 10_000}
TORCHVISION = "MNIST/raw"
SIDE = 28
_FOLDERS = ("", TORCHVISION, "raw", "mnist", "MNIST")
_IMAGES, _LABELS = ("images", "idx3", 2051), ("labels", "idx1", 2049)
"""What a file holds, as in its name, and the number it begins with."""
_MD5 = {
    "train-images": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels": "a25bea736e30d166cdddb491f175f624",
    "t10k-images": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
}
_REPLACE = "Put the original file in its place, or take the four files away to have MNIST downloaded."

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Pixels [N, 28, 28] and labels [N]."""


@dataclass(frozen=True)
class Copy:
    """A folder that holds a part of MNIST, "train" or "t10k"."""

    images: Path
    labels: Path

    def read(self, part: str) -> Arrays:
        """Read both files. Raises UsageError, naming the file, for one that is damaged or not MNIST's."""
        count = COUNTS[part]
        pixels = _read(self.images, _IMAGES, (count, SIDE, SIDE))
        labels = _read(self.labels, _LABELS, (count,))
        if labels[1].max() > 9:
            raise UsageError(f"{self.labels} holds labels outside 0 to 9: damaged, or not MNIST.", _REPLACE)
        found = {self.images: (f"{part}-images", pixels[0]), self.labels: (f"{part}-labels", labels[0])}
        changed = [path.name for path, (name, md5) in found.items() if _MD5[name] != md5]
        if changed and first_time(self.images):
            log.warning("MNIST in %s is not the original: the checksums of %s differ from the published ones. It is "
                        "used as it is; the hash of its labels and pixels goes into every record.",
                        self.images.parent, ", ".join(changed))  # fmt: skip
        return pixels[1], labels[1]


def find_copy(part: str, data_dir: Path | None) -> Copy | None:
    """Return the first copy with this part: in ``data_dir``, then ISMN_DATA_DIR, then the home folder.

    Raises UsageError for a folder that was named but does not exist, and where one of two files is missing.
    """
    without: list[str] = []
    for root in roots(data_dir, _where):
        for folder in _FOLDERS:
            copy = _copy_in(root / folder, part)
            if copy is not None:
                if without and first_time("mnist", *without):
                    log.warning("There is no MNIST in %s; using %s.", " or ".join(without), root / folder)
                return copy
        without.append(str(root))
    return None


def _copy_in(folder: Path, part: str) -> Copy | None:
    images, labels = (_file_in(folder, f"{part}-{what}", kind) for what, kind, _ in (_IMAGES, _LABELS))
    if images and labels:
        return Copy(images, labels)
    if images or labels:
        lacks = f"{part}-{'labels-idx1' if images else 'images-idx3'}-ubyte"
        raise UsageError(f"MNIST in {folder} lacks {lacks}.", _where(folder))
    return None


def _file_in(folder: Path, stem: str, kind: str) -> Path | None:
    names = (f"{stem}{dot}{kind}-ubyte{packed}" for dot in "-." for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(path: Path, kind: tuple[str, str, int], shape: tuple[int, ...]) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return the md5 of the unpacked file, and its array. Raises UsageError."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}.", _REPLACE) from None
    begin = 4 * (1 + len(shape))
    head = np.frombuffer(content[:begin].ljust(begin, b"\0"), ">i4").tolist()
    if head != [kind[2], *shape]:
        raise UsageError(f"{path} does not begin as MNIST's {kind[0]} do ({kind[2]}, {shape}): {head}.", _REPLACE)
    data = np.frombuffer(content, np.uint8)[begin:]
    if data.size != np.prod(shape):
        raise UsageError(f"{path} holds {data.size:,} bytes of {kind[0]}; expected are {np.prod(shape):,}.", _REPLACE)
    # a copy, because what is read from a file cannot be written to
    return hashlib.md5(content, usedforsecurity=False).hexdigest(), data.reshape(shape).copy()


def _where(root: Path) -> str:
    return f"Put train-images-idx3-ubyte.gz and the other three files in {root / TORCHVISION}."


def not_found(reason: str, data_dir: Path | None) -> UsageError:
    """Return the error for a machine without MNIST."""
    return UsageError(f"MNIST is not on this machine and {reason}.", _where(data_dir or home_data()))
