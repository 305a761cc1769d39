"""A named data set split: images that know which samples they are and what they were read from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import DataKind, Samples
from ismn_cli.engine.rng import derive
from ismn_models.images import Images
from ismn_models.shape import Shape


@dataclass(frozen=True)
class ImageSet(Images):
    """One split: ``pixels`` uint8 [N, C, H, W], ``labels`` and ``ids`` int64 [N]; see `Images`.

    ``ids`` are the indices in the original set. ``data_hash`` is the `content_hash` of the whole split as it
    was read, and ``total`` its size; both stay as they are when a part is selected.
    """

    name: str
    split: str
    ids: Tensor
    classes: tuple[str, ...]
    data_hash: str
    total: int
    family: str = ""
    """Name of the data set that systems for these images are trained on, where it is not this one."""

    @property
    def kind(self) -> DataKind:
        """The kind of these images."""
        shape = Shape(len(self.classes), self.pixels.shape[1], self.pixels.shape[-1])
        return DataKind(self.family or self.name, shape)

    def take(self, index: Tensor | slice) -> Self:
        """Return the chosen images with their ids."""
        return replace(super().take(index), ids=self.ids[index])

    def to(self, device: torch.device | str) -> Self:
        """Return the set on ``device``."""
        return replace(super().to(device), ids=self.ids.to(device))

    def select(self, limit: int, seed: int) -> ImageSet:
        """Return the first ``limit`` images of a seeded, class-balanced order; itself if it has no more.

        The order goes round the classes, one image of each in turn, passing over a class that has no more.
        Within a class it follows a hash of seed and id: the same on every machine, whatever the versions of
        the libraries. A selection is the beginning of every larger one. Raises UsageError if ``limit`` < 1.
        """
        if limit < 1:
            raise UsageError(f"A limit of {limit} leaves no images.", "Write --limit 100, or leave it out.")
        if limit >= len(self):
            return self
        order = balanced_order(self.labels.tolist(), self.ids.tolist(), seed)
        return self.take(torch.tensor(order[:limit], device=self.labels.device))

    def samples(self) -> Samples:
        """Return which images these are, as it is written into a cell's key."""
        digest = hashlib.sha256(f"{self.name}\n{self.split}\n".encode())
        digest.update(self.ids.cpu().numpy().astype("<i8").tobytes())
        return Samples(
            dataset=self.name,
            split=self.split,
            count=len(self),
            total=self.total,
            ids=digest.hexdigest(),
            data=self.data_hash,
        )


def balanced_order(labels: list[int], ids: list[int], seed: int) -> list[int]:
    """Return the positions 0..N-1 in the order described at `ImageSet.select`."""
    shuffled = sorted(range(len(ids)), key=lambda i: derive(seed, "sample", ids[i]))
    turn = {label: derive(seed, "class", label) for label in set(labels)}
    taken = dict.fromkeys(turn, 0)
    keys: dict[int, tuple[int, int]] = {}
    for i in shuffled:
        keys[i] = (taken[labels[i]], turn[labels[i]])
        taken[labels[i]] += 1
    return sorted(keys, key=keys.__getitem__)


def from_arrays(
    name: str,
    split: str,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    ids: Sequence[int],
) -> ImageSet:
    """Return images [N, C, n, n] and their labels as a whole split, named "NAME@n"; its hash is over both.

    Labels are hashed as int64, see `content_hash`.
    """
    return ImageSet(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels),
        # what is grey is often a digit or a letter, which a mirror makes another
        mirror=pixels.shape[1] == 3,
        name=f"{name}@{pixels.shape[-1]}",
        split=split,
        ids=torch.tensor(ids),
        classes=classes,
        data_hash=content_hash(labels.astype("<i8").view(np.uint8), pixels),
        total=len(labels),
    )


def content_hash(labels: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint8]) -> str:
    """Return the sha256 of all labels (a byte each), then all pixels [N, C, H, W]."""
    digest = hashlib.sha256(np.ascontiguousarray(labels).data)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
