"""Images in groups of one size: a sum over many channels is rounded by the size of the batch it is taken in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError

Result = TypeVar("Result")

SIZE = 8
"""Of a group on the CPU. Activations of so few images stay in its cache: 128 at once take up to half as long again. 16
take a twentieth less, but the few that hold to the end, and cost the most, fill a small group sooner."""
_FEWEST = "There is no doing it with fewer. End what else takes memory here, or use smaller images."


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

        Raises MemoryShortError where a group cannot be made smaller: on the CPU it is always `SIZE` images.
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
                    raise MemoryShortError(self.doing, len(rows), _FEWEST) from None
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


def filled(x: Tensor) -> Tensor:
    """Return x [N, ...], on the CPU with copies of its first entry up to the next multiple of `SIZE`."""
    missing = -len(x) % SIZE
    if not missing or not len(x) or x.device.type != "cpu":
        return x
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
