"""Rectangles of maps, and what of a convolution's output and input belongs to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """Rows top to bottom and columns left to right of a map, the last ones excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in it."""
        return max(self.bottom - self.top, 0) * max(self.right - self.left, 0)

    def of(self, maps: Tensor) -> Tensor:
        """Return a view of maps [..., H, W]."""
        return maps[..., self.top : self.bottom, self.left : self.right]

    def common(self, other: Window) -> Window:
        """Return what both have."""
        (a, b, c, d), (e, f, g, h) = self, other
        return Window(max(a, e), min(b, f), max(c, g), min(d, h))

    def around(self, other: Window) -> Window:
        """Return the smallest one that has both in it."""
        (a, b, c, d), (e, f, g, h) = self, other
        return Window(min(a, e), max(b, f), min(c, g), max(d, h))

    def seen_from(self, other: Window) -> Window:
        """Return it counted from the first row and column of ``other``."""
        return Window(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)

    def beyond(self, other: Window) -> tuple[int, int, int, int]:
        """Return by how much it goes past ``other``, a part of it: left, right, top, bottom, as padding is given."""
        return other.left - self.left, self.right - other.right, other.top - self.top, self.bottom - other.bottom


def everywhere(maps: Tensor) -> Window:
    """Return the window that is all of maps [..., H, W]."""
    return Window(0, maps.shape[-2], 0, maps.shape[-1])


def changed(x: Tensor, other: Tensor) -> int:
    """Return at how many pixels any of the images [N, C, H, W] differ."""
    return int((x != other).flatten(0, 1).any(0).sum())


def differing(x: Tensor, other: Tensor) -> Window:
    """Return the smallest window in which any of the images [N, C, H, W] differ, empty if none does."""
    different = (x != other).flatten(0, 1).any(0)
    rows, columns = (different.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return Window(0, 0, 0, 0)
    return Window(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def reached(new: Window, out: Tensor, *how: int | Sequence[int]) -> tuple[Window, Window]:
    """Return where a sliding kernel's output depends on ``new``, and what input that takes, borders included.

    out: maps [..., H, W] of the size of the output. how: kernel, stride, padding and dilation, for both sides alike or
    (rows, columns).
    """
    found, needed = list[int](), list[int]()
    for axis in (0, 1):
        kernel, stride, padding, dilation = (part if isinstance(part, int) else part[axis % len(part)] for part in how)
        reach = dilation * (kernel - 1) + 1
        first = max(0, -((reach - 1 - padding - new[2 * axis]) // stride))
        last = min(out.shape[axis - 2], (new[2 * axis + 1] - 1 + padding) // stride + 1)
        found += first, last
        needed += first * stride - padding, (last - 1) * stride - padding + reach
    return Window(*found), Window(*needed)
