"""Arrays of images and labels in .npz files: which of them is what, and pixels in one form."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ismn_cli.data.pictures import is_web_page, resized

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
"""Split -> what it is called in names of files and arrays."""
IMAGES, LABELS = ("images", "image", "x", "data"), ("labels", "label", "y", "targets")

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
PART = 2**22
"""Bytes of an array that are read at a time."""
BROKEN = (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error)


class ArrayError(Exception):
    """An array is not what it should be; the message says so in a few words."""


@dataclass(frozen=True)
class Place:
    """Where an array is: a file of the data set, and the name in it."""

    archive: Any
    name: str

    def read(self) -> Array:
        """Return the array. Raises ArrayError; no pickle is ever read."""
        try:
            return np.asarray(self.archive[self.name])
        except BROKEN as error:
            raise ArrayError(f"{self.name} cannot be read: {_reason(error)}") from None

    def header(self) -> Array:
        """Return an array of the same shape and type that takes no memory. Raises ArrayError."""
        try:
            with self._opened() as stream:
                shape, _, dtype = _header(stream)
            return np.broadcast_to(np.zeros((), dtype), shape)
        except BROKEN as error:
            raise ArrayError(f"{self.name} cannot be read: {_reason(error)}") from None

    def parts(self, rows: Rows) -> Iterator[tuple[Rows, Array]]:
        """Yield (positions in ``rows``, those rows of the array) for all rows; few are in memory at a time.

        Raises ArrayError.
        """
        try:
            with self._opened() as stream:
                shape, by_columns, dtype = _header(stream)
                if not by_columns:
                    yield from _parts(stream, shape, dtype, rows)
                    return
        except BROKEN as error:
            raise ArrayError(f"{self.name} cannot be read: {_reason(error)}") from None
        if len(rows):
            yield np.arange(len(rows)), self.read()[rows]

    def _opened(self) -> IO[bytes]:
        stream: IO[bytes] = self.archive.zip.open(f"{self.name}.npy")
        return stream


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape of an array, whether its columns lie together rather than its rows, and its type."""
    version = np.lib.format.read_magic(stream)
    shape, by_columns, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(stream)
    return shape, by_columns, dtype


def _parts(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], rows: Rows
) -> Iterator[tuple[Rows, Array]]:
    size = dtype.itemsize * math.prod(shape[1:])
    at_once = max(1, PART // size)
    for start in range(0, shape[0], at_once):
        count = min(at_once, shape[0] - start)
        part = np.frombuffer(stream.read(count * size), dtype).reshape(count, *shape[1:])
        positions = np.flatnonzero((rows >= start) & (rows < start + count))
        if len(positions):
            yield positions, part[rows[positions] - start]


def _reason(error: Exception) -> str:
    return "it holds Python objects, not numbers" if "pickle" in str(error) else str(error)


@dataclass(frozen=True)
class Pair:
    """Where the images and the labels of one split are."""

    images: Place
    labels: Place


class Archives:
    """The files of a data set, open while its block runs: ``pairs`` by split, "all" where there are no splits.

    Raises ArrayError where nothing can be made of them.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.pairs: dict[str, Pair] = {}
        self.classes: Place | None = None
        self._open = ExitStack()

    def __enter__(self) -> Archives:
        with ExitStack() as stack:
            for split, path in _files(self.place).items():
                archive = stack.enter_context(_opened(path))
                self.pairs |= _pairs(archive, split, path)
                if "classes" in archive.files:
                    self.classes = Place(archive, "classes")
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def _files(place: Path) -> dict[str, Path]:
    """Return split -> file; one file that may hold all of them goes by ""."""
    if place.is_file():
        return {"": place}
    found = {split: place / f"{name}.npz" for split, names in SPLITS.items() for name in reversed(names)
             if (place / f"{name}.npz").is_file()}  # fmt: skip
    single = sorted(place.glob("*.npz"))
    if not found and len(single) == 1:
        return {"": single[0]}
    if not found:
        raise ArrayError(f"has {len(single)} .npz files, none of them train.npz or test.npz")
    return found


def _opened(path: Path) -> Any:
    try:
        archive = np.load(path, allow_pickle=False)
    except BROKEN as error:
        page = path.stat().st_size and is_web_page(path)
        reason = "is a web page, not an archive" if page else f"cannot be read as .npz: {error}"
        raise ArrayError(f"{path.name} {reason}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ArrayError(f"{path.name} holds one array (.npy); images and labels are two: save them with np.savez")
    return archive


def _pairs(archive: Any, split: str, path: Path) -> dict[str, Pair]:
    names = {name.lower(): name for name in archive.files}
    plain = _pair(archive, names, IMAGES, LABELS)
    if split or plain:
        if plain is None:
            raise ArrayError(f"{path.name} has no images and labels, but {', '.join(archive.files) or 'nothing'}")
        return {split or "all": plain}
    found = {}
    for name, words in SPLITS.items():
        pair = _pair(archive, names, _with(words, IMAGES), _with(words, LABELS))
        if pair:
            found[name] = pair
    if not found:
        raise ArrayError(f"{path.name} has no images and labels, but {', '.join(archive.files) or 'nothing'}")
    return found


def _with(splits: Iterable[str], whats: Iterable[str]) -> list[str]:
    """Return the names that both x_train (as Keras has it) and train_images (as MedMNIST) are of."""
    return [name for what in whats for split in splits for name in (f"{what}_{split}", f"{split}_{what}")]


def _pair(archive: Any, names: Mapping[str, str], images: Iterable[str], labels: Iterable[str]) -> Pair | None:
    here = [next((names[name] for name in wanted if name in names), None) for wanted in (images, labels)]
    return Pair(Place(archive, here[0]), Place(archive, here[1])) if here[0] and here[1] else None


def labels_of(array: Array) -> npt.NDArray[np.int64]:
    """Return labels [N] or [N, 1] as int64 [N]. Raises ArrayError."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ArrayError(f"labels have shape {array.shape}; wanted is one number an image: argmax(1) of one-hot labels")
    if array.dtype.kind not in "iub":
        raise ArrayError(f"labels are of type {array.dtype}, not whole numbers")
    if array.size and array.min() < 0:
        raise ArrayError(f"labels are out of range: the least is {array.min()}, the first class is 0")
    return array.astype(np.int64)


def channels_first(array: Array) -> Array:
    """Return images as [N, C, H, W], whichever of [N, H, W], [N, H, W, C] and [N, C, H, W] they were.

    Raises ArrayError unless C is 1 or 3, and for other things than numbers.
    """
    if array.dtype.kind not in "iuf":
        raise ArrayError(f"images are of type {array.dtype}, neither bytes nor floats")
    shape = array.shape
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape[1:]:
        raise ArrayError(f"images have shape {shape}; wanted is [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3")
    return array


def pixels_of(array: Array, size: int) -> npt.NDArray[np.uint8]:
    """Return images as uint8 [N, C, size, size]: the largest square in the middle of each, resized.

    ``array`` is as in `channels_first`, of bytes or of floats in [0, 1]. Raises ArrayError.
    """
    planes = channels_first(array)
    _check_range(array)
    side = min(planes.shape[2:])
    top, left = ((length - side) // 2 for length in planes.shape[2:])
    square = planes[:, :, top : top + side, left : left + side]
    if array.dtype.kind == "f":
        square = np.rint(square * array.dtype.type(255))
    pixels = np.ascontiguousarray(square, np.uint8)
    return pixels if size == side or not len(pixels) else np.stack([_resized(image, size) for image in pixels])


def _check_range(array: Array) -> None:
    top = 1 if array.dtype.kind == "f" else 255
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= 0 and high <= top):  # so that NaN is refused too
        scale = "; divide them by 255" if top == 1 and 1 < high <= 255 and low >= 0 else ""
        raise ArrayError(f"images of type {array.dtype} have values from {low} to {high}, not 0 to {top}{scale}")


def _resized(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    return resized(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), size)
