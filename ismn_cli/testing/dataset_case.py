"""The splits of a data set as its function returns them: each image as an array of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ismn_cli.data.npz_files import ArrayError, channels_first
from ismn_cli.testing.verdicts import raised

Array = npt.NDArray[Any]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Images and labels, not yet known to be either."""

    images: list[Array]
    labels: list[Any]

    @cached_property
    def contents(self) -> list[str]:
        """Return a hash of each image."""
        return [hashlib.sha256(_bytes(image)).hexdigest() for image in self.images]

    def numbers(self) -> list[int]:
        """Return the labels as whole numbers. Raises TypeError, ValueError."""
        return [int(np.asarray(label).reshape(())) for label in self.labels]


def _bytes(image: Array) -> bytes:
    return f"{image.dtype} {image.shape}".encode() + np.ascontiguousarray(image).tobytes()


@dataclass(frozen=True)
class DatasetCase:
    """A data set's splits, each read twice."""

    splits: dict[str, Split]
    again: dict[str, Split]
    raised: dict[str, str]
    """What the function raised for a split."""
    classes: tuple[str, ...] | None

    @property
    def count(self) -> int:
        """The number of classes: of the names where there are any, else the highest label and one."""
        return len(self.classes) if self.classes else 1 + max(max(s.numbers()) for s in self.splits.values())


def open_case(data: Callable[..., Any], classes: tuple[str, ...] | None) -> DatasetCase:
    """Read every split twice. What the function raises is kept."""
    splits, again, problems = dict[str, Split](), dict[str, Split](), dict[str, str]()
    declared = classes or getattr(data, "classes", None)
    for name in SPLITS:
        try:
            given = data(name)
            if given is None:
                continue
            declared = declared or getattr(given, "classes", None)
            splits[name], again[name] = read(given), read(data(name))
        except (Exception, SystemExit) as error:
            problems[name] = raised(error)
    return DatasetCase(splits, again, problems, tuple(map(str, declared)) if declared else None)


def read(given: Any) -> Split:
    """Return the images and labels of (pixels, labels) or of a torch Dataset. Raises TypeError for anything else."""
    if isinstance(given, tuple | list) and len(given) == 2:
        return Split(list(_planes(_array(given[0]))), list(_array(given[1])))
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise TypeError(f"a {type(given).__name__} is neither (pixels, labels) nor a torch Dataset")
    pairs = [given[i] for i in range(len(given))]
    return Split([_picture(image) for image, _ in pairs], [label for _, label in pairs])


def _array(value: Any) -> Array:
    return np.asarray(value.detach().cpu()) if isinstance(value, Tensor) else np.asarray(value)


def _planes(array: Array) -> Array:
    """Return images channels first, where they can be seen to be images at all."""
    try:
        return channels_first(array)
    except ArrayError:
        return array


def _picture(image: Any) -> Array:
    """Return an array [C, H, W] of a PIL image or of a tensor."""
    array = np.asarray(image) if isinstance(image, Image.Image) else _array(image)
    return np.asarray(_planes(array[None])[0])
