"""Images in groups of one size: a sum over many channels is rounded by the size of the batch it is taken in."""

from __future__ import annotations

import torch
from torch import Tensor

SIZE = 8
"""Of a group on the CPU. Activations of so few images stay in its cache: 128 at once take up to half as long again. 16
take a twentieth less, but the few that hold to the end, and cost the most, fill a small group sooner."""


def groups(x: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of x [N, ...] in groups, int64.

    On the CPU a group is `SIZE` images, and the rest at the end. Elsewhere it is all of them: kernels there are
    chosen by more than the size, and larger batches are faster.
    """
    positions = torch.arange(len(x), device=x.device)
    if not len(x):
        return ()
    return torch.split(positions, SIZE if x.device.type == "cpu" else len(x))


def filled(x: Tensor) -> Tensor:
    """Return x [N, ...], on the CPU with copies of its first entry up to the next multiple of `SIZE`."""
    missing = -len(x) % SIZE
    if not missing or not len(x) or x.device.type != "cpu":
        return x
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
