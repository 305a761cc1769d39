"""Labelled images: uint8, in memory or mapped from a file; floats in [0, 1] a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

KEPT_BYTES = 2**31
"""Most that a training keeps beside its images (2 GiB): their attacked copies, their noise."""


@dataclass(frozen=True)
class Images:
    """``pixels`` uint8 [N, C, H, W] and ``labels`` int64 [N].

    Labels are on the device that batches are wanted on; pixels too, unless they would take too much of it.
    """

    pixels: Tensor
    labels: Tensor
    mirror: bool = field(default=True, kw_only=True)
    """Whether a mirrored image is still of its class: faces and cars are, digits are not."""

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen images as float32 [n, C, H, W] in [0, 1], on the labels' device."""
        # Moved as bytes: a quarter of what floats would take on their way to a GPU.
        return self._pixels_at(index).to(self.labels.device).float().div_(255)

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float [n, C, H, W] in [0, 1], labels [n]): all in order, or those at ``order`` [M]."""
        for start in range(0, len(self) if order is None else len(order), size):
            part = slice(start, start + size)
            chosen = part if order is None else order[part]
            yield self.floats(chosen), self.labels[chosen]

    def take(self, index: Tensor | slice) -> Self:
        """Return the chosen images as a new set of the same kind. A slice copies nothing, a tensor [n] the images."""
        return replace(self, pixels=self._pixels_at(index), labels=self.labels[index])

    def to(self, device: torch.device | str) -> Self:
        """Return the set on ``device``; pixels that would fill half of a GPU's free memory stay where they are."""
        pixels = self.pixels.to(device) if _has_room(torch.device(device), self.pixels) else self.pixels
        return replace(self, pixels=pixels, labels=self.labels.to(device))

    def may_keep(self, item_bytes: int = 1) -> bool:
        """Whether something of ``item_bytes`` for each number of the images may be kept in memory beside them."""
        return self.pixels.numel() * item_bytes <= KEPT_BYTES

    def _pixels_at(self, index: Tensor | slice) -> Tensor:
        return self.pixels[index.to(self.pixels.device) if isinstance(index, Tensor) else index]


def _has_room(device: torch.device, pixels: Tensor) -> bool:
    return device.type != "cuda" or pixels.is_cuda or pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
