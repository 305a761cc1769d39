"""Who carries out a matrix's tasks: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ismn_cli.core.records import CellResult
from ismn_cli.core.store import Store
from ismn_cli.stages.ledger import Ledger
from ismn_cli.stages.plan import Matrix
from ismn_cli.stages.tasks import Task

Done = tuple[Task, int, list[CellResult]]
"""A task, the number of a batch, and the result on it of each of the task's cells."""
CarryOut = Callable[[Matrix, Store, Sequence[Task], Ledger], Iterator[Done]]
"""Takes the tasks in an order that can be kept; the ledger has taken in what was yielded before it goes on."""


def locally(matrix: Matrix, store: Store, tasks: Sequence[Task], ledger: Ledger) -> Iterator[Done]:
    """Carry out ``tasks`` in this process, one after the other."""
    bench = matrix.bench(store.examples)
    for task in tasks:
        for index, results in bench.carry_out(task, ledger.span, ledger.part):
            yield task, index, results
