"""A step of training that several processes take together, each on its own rows of the batch, as one process would.

What a stage does to each row by itself needs nothing of this. The rest goes through here: what is drawn at random is
drawn for the whole batch by every process and each keeps its own rows; what is a sum over the batch is summed over the
processes; a mean over the batch counts as much as the rows it was taken over. In a single process every function is
the plain operation that its name says.

`torch.distributed` carries the sums; who opens it, and how rows are dealt out, is not known here. A process never has
no rows: one for which there is none takes another's, which counts for nothing (`Rows.idle`). So no net ever sees an
empty batch, and all processes come to the same sums in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn

BUCKET = 2**25
"""Most numbers of gradients that are summed at a time: 128 MiB of float32."""
At = TypeVar("At", Tensor, slice)


class LostError(RuntimeError):
    """Another process of this training is gone, or cannot be reached."""


class Rows(NamedTuple):
    """Which rows of a batch are this process's."""

    own: Tensor
    """int64 [n], ascending: their places in the whole batch."""
    total: int
    """Rows of the whole batch."""
    idle: bool = False
    """Whether they are another process's too, and count for nothing here."""


@dataclass(frozen=True)
class Chosen(Generic[At]):
    """Some rows of the batch, while a step is taken on them alone."""

    at: At
    """Places among the rows that were there before; of an idle process that of a row that was not chosen."""
    total: int
    """How many were chosen, in all processes."""
    idle: bool = False

    def put(self, target: Tensor, values: Tensor) -> None:
        """Write ``values`` into the chosen rows of ``target``."""
        if not self.idle:
            target[self.at] = values


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def sharing(rows: Rows | None) -> Iterator[None]:
    """Take a step on ``rows`` alone; None: on the whole batch, as a single process does."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


@contextmanager
def only(mask: Tensor) -> Iterator[Chosen[Tensor]]:
    """Go on with the rows where ``mask`` [n] holds: inside, the batch is what is chosen, of all processes.

    Nothing is to be done where `Chosen.total` is 0.
    """
    rows = _rows.get()
    (index,) = mask.nonzero(as_tuple=True)
    if rows is None:
        yield Chosen(index, len(index))
        return
    everywhere = whole(mask)
    idle = rows.idle or not len(index)
    index = index.new_zeros(1) if idle else index
    places = (everywhere.cumsum(0) - 1).clamp_min(0)[rows.own[index]]
    total = int(everywhere.sum())
    with sharing(Rows(places, total, idle)):
        yield Chosen(index, total, idle)


@contextmanager
def between(start: int, stop: int, n: int) -> Iterator[Chosen[slice]]:
    """Go on with the rows ``start`` to ``stop`` of the whole batch, of which ``n`` are here; see `only`."""
    rows = _rows.get()
    if rows is None:
        chosen = slice(start, stop)
        yield Chosen(chosen, len(range(*chosen.indices(n))))
        return
    stop = min(stop, rows.total)
    first, last = (int((rows.own < place).sum()) for place in (start, stop))
    idle = rows.idle or first >= last
    chosen = slice(0, 1) if idle else slice(first, last)
    places = (rows.own[chosen] - start).clamp(0, max(0, stop - start - 1))
    with sharing(Rows(places, max(0, stop - start), idle)):
        yield Chosen(chosen, max(0, stop - start), idle)


def shared() -> bool:
    """Whether a step is being taken on some rows of the batch only."""
    return _rows.get() is not None


def total(n: int) -> int:
    """Return how many rows the whole batch has, of which ``n`` are here."""
    rows = _rows.get()
    return n if rows is None else rows.total


def share() -> float:
    """Return what a mean over the rows here counts for in that over the batch."""
    rows = _rows.get()
    if rows is None:
        return 1.0
    return 0.0 if rows.idle else len(rows.own) / rows.total


def drawn(make: Callable[[int], Tensor], n: int, dim: int = 0) -> Tensor:
    """Return what ``make`` draws at random for so many rows, which lie along ``dim``, for the ``n`` rows here."""
    rows = _rows.get()
    if rows is None:
        return make(n)
    if len(rows.own) != n:
        raise RuntimeError(f"something is drawn for {n} rows where {len(rows.own)} are trained on")
    return make(rows.total).index_select(dim, rows.own)


def uniform_like(x: Tensor) -> Tensor:
    """Return numbers uniform in [0, 1) in the shape of x [n, ...]; see `torch.rand_like`."""
    return drawn(lambda n: sized(x, n).uniform_(), len(x))


def normal_like(x: Tensor) -> Tensor:
    """Return standard normal numbers in the shape of x [n, ...]; see `torch.randn_like`."""
    return drawn(lambda n: sized(x, n).normal_(), len(x))


def sized(x: Tensor, n: int) -> Tensor:
    """Return an empty tensor like x of ``n`` rows, its numbers in the same order in memory: so they are drawn."""
    alike = torch.empty_like(x)
    if n == len(x):
        return alike
    inner = alike.stride()[1:]
    return torch.empty_strided((n, *x.shape[1:]), (x[0].numel(), *inner), dtype=x.dtype, device=x.device)


def summed(*values: Tensor) -> tuple[Tensor, ...]:
    """Return sums over the rows here as those over the whole batch, without gradients."""
    rows = _rows.get()
    if rows is None:
        return values
    counted = [torch.zeros_like(v) if rows.idle else v.detach().clone() for v in values]
    for value in counted:
        reduce_sum(value)
    return tuple(counted)


def mean(values: Tensor) -> Tensor:
    """Return the mean of ``values`` [n, ...] over the rows of the whole batch, without a gradient in several processes.

    ``n`` may be a multiple of the batch: several views of it, one after the other.
    """
    if _rows.get() is None:
        return values.mean(0)
    (found,) = summed(values.mean(0) * share())
    return found


def std(values: Tensor) -> Tensor:
    """Return the standard deviation [] of all numbers that ``values`` [n, ...] has in the whole batch."""
    if _rows.get() is None:
        return values.std()
    count, together = summed(torch.tensor(float(values.numel()), device=values.device), values.sum())
    (squares,) = summed((values - together / count).square().sum())
    return (squares / (count - 1)).sqrt()


def whole(values: Tensor) -> Tensor:
    """Return ``values`` [n, ...] of the rows here with those of all others, [total, ...], without a gradient."""
    rows = _rows.get()
    if rows is None:
        return values
    # gloo adds no booleans
    kind = torch.uint8 if values.dtype == torch.bool else values.dtype
    found = torch.zeros((rows.total, *values.shape[1:]), dtype=kind, device=values.device)
    if not rows.idle:
        found[rows.own] = values.detach().to(kind)
    reduce_sum(found)
    return found.to(values.dtype)


def figures(local: Mapping[str, float]) -> dict[str, float]:
    """Return means over the rows here as those over the whole batch."""
    rows = _rows.get()
    if rows is None or not local:
        return dict(local)
    values = torch.tensor(list(local.values()), dtype=torch.float64, device=rows.own.device)
    values = torch.zeros_like(values) if rows.idle else values * share()
    reduce_sum(values)
    return dict(zip(local, values.tolist(), strict=True))


def agreed(value: float) -> float:
    """Return what the first process found, where all come to a decision that must be one. To be called outside steps.

    All have computed it alike, but on other hardware its last digits may be others.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    found = torch.tensor(value if distributed.get_rank() == 0 else 0.0, dtype=torch.float64)
    reduce_sum(found)
    return found.item()


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Add up the gradients of all processes. They hold those of losses that were multiplied by `share`."""
    if _rows.get() is None:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        reduce_sum(flat)
        for gradient, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view(gradient.shape))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) + gradient.numel() > BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def reduce_sum(value: Tensor) -> None:
    """Replace ``value`` by its sum over the processes. Raises LostError where one does not answer."""
    with answering():
        distributed.all_reduce(value)


@contextmanager
def answering() -> Iterator[None]:
    """Turn what torch raises where a process does not answer into a LostError."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(str(error)) from error
