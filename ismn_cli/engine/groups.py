"""Images in groups of one size: a sum over many channels is rounded by the size of the batch it is taken in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError

Result = TypeVar("Result")

SIZE = 8
"""Of a group on the CPU, at most; for larger ones on one thread see `shares`. Activations of so few images stay in its
cache: 128 at once take up to half as long again. 16 take a twentieth less, but the few that hold to the end, and cost
the most, fill a small group sooner."""
FEWEST, MOST = 4, 15
"""On one thread so many images are summed up as `SIZE` are: none of 1,552 layers gave other bits for 4 to 7 of the 8,
none of 2,720 for 9, 12 or 15. On two threads 123 did; on one 16 images in float32 do, in MobileNet and DenseNet."""
WIDE = 24
"""As `MOST`, where all that sums does so in bf16: in no layer did 16, 19 or 24 images give other bits. What an attack
does beside its passes costs as much for 24 images as for 8, and so do weights that no cache holds: FAB takes a sixth
less time than in groups of 11, Square an eighth."""
SIDE = 32
"""Of images that a group of more than `SIZE` may have: larger ones are work enough, and take more memory."""
_SMALLER = "There is no doing it with fewer. End what else takes memory here, or use smaller images."


class MemoryShortError(UsageError):
    """So many images at once are too many."""

    def __init__(self, doing: str, n: int, hint: str) -> None:
        super().__init__(f"Memory ran out while {doing} {n} images at once.", hint)


class Groups:
    """Work that is done on images a group at a time.

    Where memory runs out a group is halved, and so are those that follow: what fits is remembered for each model as
    long as that lives. Free memory itself would not tell: how much a step takes is known when it has been taken.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self._fits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def each(
        self, model: nn.Module, x: Tensor, work: Callable[[Tensor], Result], size: int | None = None
    ) -> list[Result]:
        """Return what ``work`` makes of the positions of each group of x [N, ...], in order; ``size`` is a group's.

        Raises MemoryShortError where a group cannot be made smaller: on the CPU one of `SIZE` images.
        """
        positions, found, start = torch.arange(len(x), device=x.device), [], 0
        size = min(size or group_size(x), self._fits.get(model, len(x)))
        while start < len(x):
            rows = positions[start : start + size]
            try:
                found.append(work(rows))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if len(rows) <= (SIZE if x.device.type == "cpu" else 1):
                    raise MemoryShortError(self.doing, len(rows), _SMALLER) from None
                # Nothing is tried again here: the error still holds what it had taken.
                size = self._fits[model] = (len(rows) + 1) // 2
            else:
                start += len(rows)
        return found


def out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out. On the CPU torch raises a bare RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def group_size(x: Tensor) -> int:
    """Return how many of x [N, ...] make a group.

    On the CPU `SIZE`, and the rest at the end. Elsewhere all of them: kernels there are chosen by more than the size,
    and larger batches are faster.
    """
    return SIZE if x.device.type == "cpu" else len(x)


def groups(x: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of x [N, ...] in groups, int64."""
    return torch.split(torch.arange(len(x), device=x.device), group_size(x)) if len(x) else ()


def shares(x: Tensor, count: int, most: int) -> tuple[Tensor, ...]:
    """Return the positions of x [N, C, H, W] in groups for one thread, all of nearly one size.

    There are as many for each of ``count`` processes, of ``most`` images at most where those are of `SIDE` or smaller.
    """
    if not len(x):
        return ()
    largest = min(most, max(SIZE, most * SIDE**2 // (x.shape[-2] * x.shape[-1])))
    number = math.ceil(len(x) / largest / count) * count
    return torch.tensor_split(torch.arange(len(x)), max(1, min(number, len(x) // FEWEST)))


def filled(x: Tensor, whole: bool = False) -> Tensor:
    """Return x [N, ...], on the CPU with copies of its first entry: up to the next multiple of `SIZE`.

    On one thread, and unless groups are to be ``whole``, up to `FEWEST`: that makes no difference to a model.
    """
    missing = -len(x) % SIZE if whole or torch.get_num_threads() > 1 else FEWEST - min(len(x), FEWEST)
    if not missing or not len(x) or x.device.type != "cpu":
        return x
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])])


def answered(net: nn.Module, x: Tensor) -> Tensor:
    """Return what ``net`` answers for x [N, ...], on the CPU summed up as groups are."""
    if x.device.type != "cpu":
        every: Tensor = net(x)
        return every
    return torch.cat([net(filled(part))[: len(part)] for part in torch.split(x, MOST)])
