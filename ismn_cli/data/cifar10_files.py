"""CIFAR-10's files: where they are looked for, their two layouts, and whether they are the originals.

Checksums: those of ``cifar-10-batches-py`` are torchvision's. Of ``cifar-10-batches-bin`` the authors publish
only the archive's (c32a1d4ab5d03f1284b67883e8d87530); those of its files are the ones that
rai-project/dldataset and prabhuomkar/pytorch-cpp, independently of each other, list beside it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ismn_cli.core.errors import UsageError
from ismn_cli.data.places import first_time, home_data, roots
from ismn_cli.data.restricted_pickle import read_batch

log = logging.getLogger(__name__)

TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCHES = ("test_batch",)
ALL_BATCHES = TRAIN_BATCHES + TEST_BATCHES
BATCH = 10_000
"""Images in a file."""
PIXELS = 3 * 32 * 32

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], str]
"""Labels [10000], pixels [10000, 3, 32, 32], md5 of the file."""


@dataclass(frozen=True)
class Layout:
    """One of the two forms in which CIFAR-10 is published."""

    folder: str
    suffix: str
    md5: dict[str, str]

    def file(self, batch: str) -> str:
        """Return the file name of a batch."""
        return batch + self.suffix


BIN = Layout(
    "cifar-10-batches-bin",
    ".bin",
    {
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)
PY = Layout(
    "cifar-10-batches-py",
    "",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)


@dataclass(frozen=True)
class Copy:
    """A folder that holds CIFAR-10 in one layout."""

    path: Path
    layout: Layout

    def missing(self, batches: tuple[str, ...]) -> list[str]:
        """Return the file names of those batches that are not there."""
        names = map(self.layout.file, batches)
        return [name for name in names if not (self.path / name).is_file()]

    def read(self, batch: str) -> Batch:
        """Read one file. Raises UsageError, naming it, if it is unreadable, cut short or not CIFAR-10."""
        path = self.path / self.layout.file(batch)
        try:
            labels, pixels, md5 = _read_bin(path) if self.layout is BIN else _read_py(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as a CIFAR-10 batch: {error}.", _REPLACE) from None
        if len(labels) != BATCH or pixels.shape != (BATCH, PIXELS):
            shape = f"{len(labels):,} labels and images of shape {pixels.shape}"
            raise UsageError(f"{path} holds {shape}; expected are 10,000 and (10000, 3072).", _REPLACE)
        if labels.min() < 0 or labels.max() > 9:
            raise UsageError(f"{path} holds labels outside 0 to 9: damaged, or not CIFAR-10.", _REPLACE)
        return labels.astype(np.uint8), pixels.reshape(BATCH, 3, 32, 32), md5


_REPLACE = "Put the original file in its place, or delete the folder to have CIFAR-10 downloaded."


def _read_bin(path: Path) -> Batch:
    size, expected = path.stat().st_size, BATCH * (1 + PIXELS)
    if size != expected:
        raise ValueError(f"it has {size:,} bytes, expected are {expected:,}")
    records = np.fromfile(path, np.uint8).reshape(BATCH, 1 + PIXELS)
    return records[:, 0], records[:, 1:], hashlib.md5(records.data, usedforsecurity=False).hexdigest()


def _read_py(path: Path) -> Batch:
    content = path.read_bytes()
    try:
        labels, pixels = read_batch(content)
    except ValueError as error:
        raise ValueError(f"{error}; it has {len(content):,} bytes, expected are about 31,035,000") from None
    return labels, pixels, hashlib.md5(content, usedforsecurity=False).hexdigest()


def find_copy(batches: tuple[str, ...], data_dir: Path | None) -> Copy | None:
    """Return the first copy with these batches: in ``data_dir``, then ISMN_DATA_DIR, then the home folder.

    Each of these may hold a folder of either layout, or be one. Raises UsageError for a folder that was named
    but does not exist, and for a copy from which files are missing.
    """
    without: list[str] = []
    for root in roots(data_dir, _where):
        copy = _copy_in(root, batches)
        if copy is not None:
            if without and first_time(*without, copy.path):
                log.warning("There is no CIFAR-10 in %s; using %s.", " or ".join(without), copy.path)
            return copy
        without.append(str(root))
    return None


def _copy_in(root: Path, batches: tuple[str, ...]) -> Copy | None:
    copies = [Copy(path, layout) for layout in (BIN, PY) for path in (root / layout.folder, root)]
    complete = [copy for copy in copies if not copy.missing(batches)]
    if complete:
        return complete[0]
    for copy in copies:
        begun = copy.path != root and copy.path.is_dir()
        if begun or len(copy.missing(ALL_BATCHES)) < len(ALL_BATCHES):
            names = ", ".join(copy.missing(batches))
            raise UsageError(f"CIFAR-10 in {copy.path} lacks {names}.", _where(copy.path.parent))
    return None


def _where(root: Path) -> str:
    return (
        f"Put data_batch_1.bin to data_batch_5.bin and test_batch.bin in {root / BIN.folder} "
        f"(or the same names without .bin in {root / PY.folder}). The data set cifar10-mini comes with ismn."
    )


def not_found(reason: str, data_dir: Path | None) -> UsageError:
    """Return the error for a machine without CIFAR-10 that cannot download it either."""
    named = data_dir or os.environ.get("ISMN_DATA_DIR")
    return UsageError(
        f"CIFAR-10 is not on this machine and could not be downloaded ({reason}).",
        _where(Path(named) if named else home_data()),
    )


def warn_of_changes(copy: Copy, md5: dict[str, str]) -> None:
    """Log one warning, naming the files, if some of those read (batch -> md5) are not the original ones.

    The rest of the folder is then checked too, so that each process warns of it only once.
    """
    published = copy.layout.md5
    if all(published[batch] == found for batch, found in md5.items()) or not first_time(copy.path):
        return
    found = {b: md5.get(b) or _md5(copy.path / copy.layout.file(b)) for b in ALL_BATCHES}
    changed = [copy.layout.file(b) for b in ALL_BATCHES if found[b] not in (None, published[b])]
    log.warning(
        "CIFAR-10 in %s is not the original: the checksums of %s differ from the published ones. "
        "It is used as it is; the hash of its labels and pixels goes into every record.",
        copy.path,
        ", ".join(changed),
    )


def _md5(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
