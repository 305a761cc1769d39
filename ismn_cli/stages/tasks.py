"""What a matrix has to compute, in tasks that start from each other's results, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Cell
from ismn_cli.stages.jobs import Job
from ismn_cli.stages.resolve import Resolved

Earlier = Callable[[str, int], CellResult]
"""(a cell's key, number of a batch) -> that cell's result on that batch."""


@dataclass(frozen=True)
class Task:
    """The cells that are computed together: one without attack, or those that share an attack's examples."""

    cells: tuple[tuple[Resolved, Cell], ...]
    job: Job | None = None
    """The attack; None without one."""
    clean: tuple[str, ...] = ()
    """Under attack: the key of each system's cell without it."""

    def keys(self) -> tuple[str, ...]:
        """Return the keys of its cells."""
        return tuple(cell.key() for _, cell in self.cells)

    def needs(self) -> tuple[str, ...]:
        """Return the keys of the cells whose results, on a batch, it starts from."""
        if self.job is None or self.job.previous is None:
            return self.clean
        return (*self.clean, self.job.previous.key())

    def only(self, keys: Container[str]) -> Task:
        """Return the task with those of its cells whose key is in ``keys``."""
        kept = [number for number, key in enumerate(self.keys()) if key in keys]
        cells = tuple(self.cells[number] for number in kept)
        job = None if self.job is None else replace(self.job, cells=cells)
        return Task(cells, job, tuple(self.clean[number] for number in kept) if self.clean else ())

    def passes(self) -> float:
        """Return about how many passes it makes on an image: of an attack as on one that holds."""
        return len(self.cells) + (self.job.passes if self.job else 0.0)

    def label(self) -> str:
        """Return a short name for progress."""
        return self.job.label() if self.job else f"{self.cells[0][0].subject.name}, clean"
