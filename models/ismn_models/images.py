"""Labelled images in memory: uint8 on the device, floats in [0, 1] a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """``pixels`` uint8 [N, C, H, W] and ``labels`` int64 [N], on one device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen images as float32 [n, C, H, W] in [0, 1]."""
        return self.pixels[index].float().div_(255)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float [n, C, H, W] in [0, 1], labels [n]) in order."""
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            yield self.floats(chosen), self.labels[chosen]

    def take(self, index: Tensor | slice) -> Images:
        """Return the chosen images as a new set of the same kind."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> Images:
        """Return the set on ``device``."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))
