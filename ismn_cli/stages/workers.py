"""What a worker of a cluster does: makes the matrix once, and carries out what it is asked for. It sees no store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ismn_cli.core.heap import keep_freed_memory
from ismn_cli.core.parts import Span
from ismn_cli.core.records import CellResult
from ismn_cli.stages.cells import Attacker, Bench
from ismn_cli.stages.jobs import Job
from ismn_cli.stages.shipping import Parcel, unpack
from ismn_cli.stages.tasks import Task

if TYPE_CHECKING:
    from ismn_cli.stages.cells import Arrays, Batch

    Batches = dict[str, dict[int, Batch]]
    """Adversarial examples by their key and the number of the batch."""


@dataclass(frozen=True)
class Order:
    """What a worker is asked for, and all that it has to know for it."""

    task: int
    """Number among all tasks of the matrix."""
    keys: tuple[str, ...]
    span: Span
    earlier: Mapping[tuple[str, int], CellResult]
    stored: Batches
    device: str


class Outcome(NamedTuple):
    """The results on each batch, the examples crafted for them, and the seconds it took."""

    results: list[list[CellResult]]
    made: Batches
    seconds: float


def work(box: Sequence[Any], order: Order) -> Outcome:
    """Carry out ``order``. ``box`` holds the reference to the parcel: as an argument it would be opened each time.

    Raises UsageError as the matrix does, and where this machine is not set up as the sender's.
    """
    start = time.perf_counter()
    home = _home(box[0], order.device)
    shelf = home.bench.shelf = _Shelf(order.stored)
    task = home.task(order.task, order.keys)
    batches = home.bench.carry_out(task, order.span, lambda key, index: order.earlier[key, index])
    results = [result for _, result in batches]
    return Outcome(results, shelf.made, time.perf_counter() - start)


def has_bf16() -> bool:
    """Return whether this worker's GPU multiplies in bf16. Raises UsageError where it has none."""
    from ismn_cli.engine import device

    return device.has_bf16(device.pick_device("cuda"))


@dataclass
class _Shelf:
    """The examples that came with an order, and those made for it."""

    stored: Batches
    made: Batches = field(default_factory=dict)

    def batches(self, key: str) -> _Batches:
        return _Batches(self.stored.get(key, {}), self.made.setdefault(key, {}))


class _Batches(NamedTuple):
    """One attack's; see `ismn_cli.stages.cells.ExampleBatches`."""

    stored: dict[int, Batch]
    made: dict[int, Batch]

    def read(self, index: int) -> Batch | None:
        found = self.made.get(index) or self.stored.get(index)
        if found is None:
            return None
        # What comes through the object store cannot be written to.
        return {name: array.copy() for name, array in found[0].items()}, found[1]

    def put_batch(self, index: int, arrays: Arrays, metadata: Mapping[str, str]) -> None:
        self.made[index] = dict(arrays), dict(metadata)


class _Bench(Bench):
    """A bench that keeps the last attack, for the next batches of the same."""

    def __init__(self, parcel: Parcel, device: str) -> None:
        self.matrix = unpack(parcel, device)
        recipe = self.matrix.recipe
        super().__init__(
            lambda key: self.shelf.batches(key), self.matrix.images, self.matrix.device, recipe.batch_size, recipe.seed
        )
        self.shelf = _Shelf({})
        self._last: tuple[Job, Attacker] | None = None

    def _attack(self, job: Job) -> Attacker:
        if self._last is None or self._last[0] is not job:
            self._last = None
            self._last = job, super()._attack(job)
        return self._last[1]


class _Home:
    """A matrix in this process."""

    def __init__(self, parcel: Parcel, device: str) -> None:
        keep_freed_memory()
        self.bench = _Bench(parcel, device)
        self.tasks = self.bench.matrix.tasks(())
        self._last: tuple[tuple[int, tuple[str, ...]], Task] | None = None

    def task(self, number: int, keys: tuple[str, ...]) -> Task:
        if self._last is None or self._last[0] != (number, keys):
            self._last = (number, keys), self.tasks[number].only(keys)
        return self._last[1]


_HOMES: dict[str, _Home] = {}
"""Of the one matrix that this process works on."""


def _home(parcel: Any, device: str) -> _Home:
    import ray
    import torch

    from ismn_cli.engine.device import pick_device

    name = f"{parcel.hex()} {device}"
    if name not in _HOMES:
        pick_device(device)
        if device == "cpu":
            torch.set_num_threads(1)
        _HOMES.clear()
        _HOMES[name] = _Home(ray.get(parcel), device)
    return _HOMES[name]
