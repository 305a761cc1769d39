"""Images one by one, as a torch Dataset gives them, or in one array: as uint8 squares of one size, with labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from ismn_cli.data.image_set import ImageSet, from_arrays
from ismn_cli.data.npz_files import Array, ArrayError, channels_first, labels_of, pixels_of
from ismn_cli.data.pictures import CHANNELS, resized, square_of
from ismn_cli.data.sources import DEFAULT_SIZE

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def pixels_and_labels(given: Any, size: int | None) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, C, n, n] and labels int64 [N] of ``given``.

    It is a pair of arrays, images of bytes or of floats in [0, 1] as `npz_files.channels_first` takes them, or a
    torch Dataset of pairs of an image (PIL's, or an array) and a label. Each image is the largest square in its
    middle, resized to ``size``; without it an array keeps its own, and a Dataset too, if its images are squares of
    one size up to 128, else they become 128. Raises ArrayError, what a Dataset raises.
    """
    if isinstance(given, tuple | list) and len(given) == 2:
        return _of_arrays(array_of(given[0]), labels_of(array_of(given[1])), size)
    if isinstance(given, IterableDataset):
        return stacked(given, size)
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise ArrayError(f"it gives a {type(given).__name__}, neither (pixels, labels) nor a torch Dataset")
    return stacked((given[i] for i in range(len(given))), size)


def array_of(value: Any) -> Array:
    """Return an array, a tensor or lists as an array. Raises ArrayError."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray(value.float() if value.dtype == torch.bfloat16 else value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ArrayError(f"no array can be made of it: {error}") from None


def _of_arrays(images: Array, labels: Labels, size: int | None) -> tuple[Pixels, Labels]:
    planes = channels_first(images)
    if len(planes) != len(labels):
        raise ArrayError(f"{len(planes):,} images and {len(labels):,} labels")
    return pixels_of(images, size or min(planes.shape[2:])), labels


def stacked(items: Iterable[Any], size: int | None) -> tuple[Pixels, Labels]:
    """Return what `pixels_and_labels` does of pairs of an image and a label. Raises ArrayError."""
    squares, labels = _Squares(size), list[int]()
    for number, item in enumerate(items):
        try:
            image, label = _pair(item)
            squares.add(image)
            labels.append(label)
        except ArrayError as error:
            raise ArrayError(f"item {number:,}: {error}") from None
    return squares.stacked(), np.array(labels, np.int64)


def _pair(item: Any) -> tuple[Image.Image, int]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ArrayError("it is no pair of an image and a label")
    return _image(item[0]), _label(item[1])


def _label(value: Any) -> int:
    label = array_of(value)
    if label.size != 1:
        raise ArrayError("its label is not one number")
    return int(labels_of(label.reshape(1))[0])


def _image(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        if value.mode not in CHANNELS:
            raise ArrayError(f"its pixels are of kind {value.mode}, not of 8 bits a channel")
        return value
    array = array_of(value)[None]
    planes = channels_first(array)
    pixels = pixels_of(array, min(planes.shape[2:]))[0]
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


class _Squares:
    """Gathers images of any sizes; what is certain to be made smaller is at once."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.own: set[tuple[int, int]] = set()
        self.squares: list[Image.Image] = []

    def add(self, image: Image.Image) -> None:
        square = square_of(image, CHANNELS[image.mode])
        self.own.add(image.size)
        most = self.size or DEFAULT_SIZE
        if square.width > most:
            square = square.resize((most, most), Image.Resampling.BILINEAR)
        self.squares.append(square)

    def stacked(self) -> Pixels:
        size, channels = self._size(), 3 if any(square.mode == "RGB" for square in self.squares) else 1
        pixels = np.empty((len(self.squares), channels, size, size), np.uint8)
        for i in reversed(range(len(pixels))):
            pixels[i] = resized(self.squares.pop(), size)  # one channel fills three
        return pixels

    def _size(self) -> int:
        if self.size:
            return self.size
        sides = {side for shape in self.own for side in shape}
        return min(DEFAULT_SIZE, *sides) if len(sides) == 1 else DEFAULT_SIZE


def image_set(
    name: str,
    split: str,
    pixels: Pixels,
    labels: Labels,
    classes: tuple[str, ...],
    rows: Sequence[int] | None = None,
) -> ImageSet:
    """Return the ``rows`` of images and labels, all of them unless given; ids are their numbers.

    See `from_arrays`.
    """
    ids = list(range(len(labels)) if rows is None else rows)
    if len(ids) < len(labels):
        pixels, labels = pixels[ids], labels[ids]
    return from_arrays(name, split, pixels, labels, classes, ids)


def class_names(declared: Any, count: int) -> tuple[str, ...]:
    """Return ``declared`` names of classes where they are as many as ``count``, else the numbers."""
    names = tuple(_names(declared))
    return names if len(names) == count else tuple(map(str, range(count)))


def _names(declared: Any) -> Iterator[str]:
    if isinstance(declared, list | tuple):
        # ImageNet's classes have several names each
        yield from (str(name[0] if isinstance(name, tuple) and name else name) for name in declared)
