"""What to hand out next of a matrix: whose needs are there, the longest way still to go first; what fails, again.

Knows tasks and results, and nothing of who works: see `ismn_cli.stages.cluster`.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile

from ismn_cli.core.parts import Span
from ismn_cli.core.records import CellResult
from ismn_cli.stages.ledger import Ledger
from ismn_cli.stages.tasks import Task

TARGET = 0.5
"""Seconds that a unit should take: what handing it out costs, some milliseconds, is little beside it, and so is what a
worker that dies takes along."""
DEATHS = 3
"""Workers that a cell on a batch may cost. The last of them works while no other does: not even memory is to blame."""
LOSSES = 8
"""Machines that may be lost over a unit before it is taken for the cause."""
_AHEAD = 2


@dataclass(frozen=True)
class Unit:
    """Cells of a task on a span of batches: what one worker is asked for at a time."""

    task: int
    """Number of the task in the list that the units are of."""
    keys: tuple[str, ...]
    span: Span
    deaths: int = 0
    losses: int = 0


@dataclass(frozen=True)
class Settled:
    """A task's results on one batch, of all of its cells."""

    task: int
    index: int
    results: list[CellResult]


class Dispatch:
    """Hands out units of ``tasks``, in an order that can be kept, as results come in that they start from."""

    def __init__(self, tasks: Sequence[Task], ledger: Ledger) -> None:
        self.tasks, self.ledger = tuple(tasks), ledger
        self.out = 0
        """Units that are handed out and not back."""
        self._links = [_Links.of(task) for task in tasks]
        self._wanted = [list(links.keys) for links in self._links]
        self._way = _ways(self.tasks, self._links)
        self._after = _waiting(self._links)
        self._ready: list[list[int]] = [[] for _ in tasks]
        self._seen: list[set[int]] = [set() for _ in tasks]
        self._open: list[tuple[float, int]] = []
        self._again: deque[Unit] = deque()
        self._alone: deque[Unit] = deque()
        self._by_itself = False
        self._parts: dict[tuple[int, int], dict[str, CellResult]] = {}
        self._seconds: dict[str, float] = {}
        for number in range(len(tasks)):
            self._find(number, ledger.span.indices())

    def next(self, workers: int) -> Unit | None:
        """Return what to hand out now; None where all that is left waits for what is out."""
        if self._by_itself:
            return None
        unit = self._again.popleft() if self._again else self._fresh(workers)
        if unit is None and self._alone and not self.out:
            unit, self._by_itself = self._alone.popleft(), True
        self.out += unit is not None
        return unit

    def done(self, unit: Unit, batches: Sequence[Sequence[CellResult]], seconds: float) -> Iterator[Settled]:
        """Take in the results on each batch of a unit that is back; yield the batches that its task has done."""
        self._back()
        kind, each = self._kind(unit.task), seconds / max(1, len(batches))
        self._seconds[kind] = 0.5 * (self._seconds.get(kind, each) + each)
        yield from self.put(unit, batches)

    def put(self, unit: Unit, batches: Sequence[Sequence[CellResult]]) -> Iterator[Settled]:
        """Take in results, whoever made them; yield the batches that the unit's task has done with them."""
        for index, results in zip(unit.span.indices(), batches, strict=True):
            parts = self._parts.setdefault((unit.task, index), {})
            parts.update((result.cell.key(), result) for result in results)
            yield from self._settled(unit.task, index)

    def release(self, task: int, index: int) -> None:
        """Let those go on that waited for a task on a batch: the ledger has the results."""
        for key in self._links[task].keys:
            for number in self._after.get(key, ()):
                self._find(number, (index,))

    def lost(self, unit: Unit) -> bool:
        """Hand a unit out again whose machine is gone, or its results; whether it has cost too many for that."""
        if unit.losses + 1 >= LOSSES:
            return self.died(unit)
        self._back()
        self._again.append(replace(unit, losses=unit.losses + 1))
        return False

    def died(self, unit: Unit) -> bool:
        """Hand a unit out again whose worker died; whether there is no hope for it.

        It comes back batch by batch, then cell by cell, so that only what kills is given up, and at last alone.
        """
        self._back()
        deaths = unit.deaths + 1
        if len(unit.span.indices()) > 1:
            self._again += [replace(unit, span=Span(index, index + 1)) for index in unit.span.indices()]
        elif deaths < DEATHS - 1:
            self._again.append(replace(unit, deaths=deaths))
        elif len(unit.keys) > 1:
            self._again += [replace(unit, keys=(key,), deaths=deaths - 1) for key in unit.keys]
        elif deaths < DEATHS:
            self._alone.append(replace(unit, deaths=deaths))
        return deaths >= DEATHS

    def drop(self, clean: str) -> Iterator[Settled]:
        """Leave out the cells of a system whose cell ``clean`` cannot be had; yield what is done without them."""
        gone = {clean}
        for links in self._links:
            gone.update(key for key, before in links.clean.items() if before == clean)
        for number, wanted in enumerate(self._wanted):
            if gone.isdisjoint(wanted):
                continue
            self._wanted[number] = [key for key in wanted if key not in gone]
            if not self._wanted[number]:
                self._ready[number].clear()
            self._find(number, self.ledger.span.indices())
        for queue in (self._again, self._alone):
            kept = [replace(unit, keys=tuple(key for key in unit.keys if key not in gone)) for unit in queue]
            queue.clear()
            queue.extend(unit for unit in kept if unit.keys)
        for number, index in list(self._parts):
            yield from self._settled(number, index)

    def needs(self, task: int, keys: Sequence[str]) -> tuple[str, ...]:
        """Return the keys of the cells that some of a task's cells start from."""
        return self._links[task].needs(keys)

    def _back(self) -> None:
        self.out -= 1
        self._by_itself = False

    def _settled(self, number: int, index: int) -> Iterator[Settled]:
        wanted, parts = self._wanted[number], self._parts[number, index]
        if all(key in parts for key in wanted):
            del self._parts[number, index]
            if wanted:
                yield Settled(number, index, [parts[key] for key in wanted])

    def _find(self, number: int, indices: Sequence[int] | range) -> None:
        """Put those of a task's batches among the ready ones whose needs are there now."""
        wanted, seen, ready = self._wanted[number], self._seen[number], self._ready[number]
        if not wanted:
            return
        needs = self.needs(number, wanted)
        found = [i for i in indices if i not in seen and all(self.ledger.has(need, i) for need in needs)]
        if found and not ready:
            heapq.heappush(self._open, (-self._way[number], number))
        for index in found:
            seen.add(index)
            insort(ready, index)

    def _fresh(self, workers: int) -> Unit | None:
        """Return the next batches of the task with the longest way to go."""
        while self._open and not self._ready[self._open[0][1]]:
            heapq.heappop(self._open)
        if not self._open:
            return None
        number = self._open[0][1]
        ready = self._ready[number]
        run = list(takewhile(lambda pair: pair[0] == pair[1], zip(ready, count(ready[0]), strict=False)))
        length = max(1, min(len(run), self._length(number), len(ready) // (_AHEAD * max(1, workers))))
        span = Span(ready[0], ready[0] + length)
        del ready[:length]
        return Unit(number, tuple(self._wanted[number]), span)

    def _length(self, number: int) -> int:
        """Return how many batches take about `TARGET`, as far as is known."""
        seconds = self._seconds.get(self._kind(number))
        return 1 if seconds is None else int(TARGET / max(seconds, 1e-6))

    def _kind(self, number: int) -> str:
        """Return what tasks that take about as long have in common."""
        job = self.tasks[number].job
        return f"{job.attack.method} {job.knowledge}" if job else "clean"


@dataclass(frozen=True)
class _Links:
    """What a task has to do with others, by the keys of cells: they take some time to make."""

    keys: tuple[str, ...]
    clean: dict[str, str]
    """Of each cell under attack the system's without."""
    previous: tuple[str, ...]

    @classmethod
    def of(cls, task: Task) -> _Links:
        keys = task.keys()
        clean = dict(zip(keys, task.clean, strict=True)) if task.clean else {}
        return cls(keys, clean, task.needs()[len(task.clean) :])

    def needs(self, keys: Sequence[str]) -> tuple[str, ...]:
        return (*(self.clean[key] for key in keys if key in self.clean), *self.previous)


def _ways(tasks: Sequence[Task], links: Sequence[_Links]) -> list[float]:
    """Return of each task the passes on an image that it and the longest chain of those after it take."""
    ways: dict[str, float] = {}
    found = []
    for task, link in zip(reversed(tasks), reversed(links), strict=True):
        way = task.passes() + max((ways.get(key, 0.0) for key in link.keys), default=0.0)
        found.append(way)
        for need in link.needs(link.keys):
            ways[need] = max(ways.get(need, 0.0), way)
    return found[::-1]


def _waiting(links: Sequence[_Links]) -> dict[str, list[int]]:
    """Return the numbers of the tasks that need each cell."""
    waiting: dict[str, list[int]] = {}
    for number, link in enumerate(links):
        for need in link.needs(link.keys):
            waiting.setdefault(need, []).append(number)
    return waiting
