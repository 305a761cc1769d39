"""A matrix on the workers of a Ray cluster: handed out from here, stored here, as it comes back.

Workers see no store and keep nothing: one that dies is replaced, and what it was at is asked of another. What kills
every worker that tries it is unknown, and the rest goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.specs import Search
from ismn_cli.core.store import Store
from ismn_cli.stages.dispatch import Dispatch, Settled, Unit
from ismn_cli.stages.engines import Done
from ismn_cli.stages.given_up import given_up
from ismn_cli.stages.ledger import Ledger
from ismn_cli.stages.plan import Matrix
from ismn_cli.stages.pulse import Pulse, gone, reachable
from ismn_cli.stages.ray_door import connect, the_ray, without_its_pages
from ismn_cli.stages.shipping import pack
from ismn_cli.stages.tasks import Task
from ismn_cli.stages.workers import Order, Outcome, has_bf16, work

if TYPE_CHECKING:
    from ismn_cli.core.specs import Cell
    from ismn_cli.stages.resolve import Resolved
    from ismn_cli.stages.workers import Batches

_LOG = logging.getLogger("ismn")
AHEAD = 2
"""Units handed out for each worker: the next one is there when it has done one, and no more is in memory."""
RECOUNT = 10.0
"""Seconds after which workers are counted anew."""
WAIT = 1.0
"""Seconds between two looks at whether the cluster is still there."""


@contextmanager
def cluster(address: str | None, device: str) -> Iterator[Cluster]:
    """Connect to the Ray cluster at ``address``, "auto", HOST:PORT or ray://HOST:PORT; None starts one of this machine.

    ``device``: "auto" is a GPU for each worker where the cluster has any, else the CPU. Raises UsageError: no Ray
    installed, no cluster there, no such device in it.
    """
    ray = the_ray()
    if address is not None:
        reachable(address)
    with without_its_pages():
        connect(ray, address)
        try:
            resources = ray.cluster_resources()
            gpus = _on_gpus(device, resources)
            yield Cluster(address or "this machine", gpus, Pulse.of(ray, address), _workers(resources, gpus))
        except SystemExit as error:  # Ray's own answer where the node of this machine is gone
            raise gone("node of this machine") from error
        finally:
            ray.shutdown()


@dataclass
class Cluster:
    """Workers that are there for a matrix."""

    place: str
    gpus: bool
    pulse: Pulse
    count: int
    _counted: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        """The device of each worker."""
        return "cuda" if self.gpus else "cpu"

    def workers(self) -> int:
        """Return how many may work at once; nodes may come and go."""
        if time.monotonic() - self._counted > RECOUNT:
            self._counted = time.monotonic()
            # Not here: asking a head that has just died takes a minute.
            threading.Thread(target=self._recount, daemon=True).start()
        return self.count

    def _recount(self) -> None:
        with suppress(Exception):  # whatever Ray says without a head; `Pulse` notices
            self.count = _workers(the_ray().cluster_resources(), self.gpus)

    def told(self) -> str:
        """Return in words who works."""
        n = self.workers()
        kind = "GPU" if self.gpus else "CPU core"
        return f"{n} worker{'s' if n != 1 else ''} of {self.place}, a {kind} each"

    def planned_on(self) -> str:
        """Return the device on which this process plans: the workers' where it has one, else the CPU."""
        import torch

        return "cuda" if self.gpus and torch.cuda.is_available() else "cpu"

    def searched(self, recipe: MatrixRecipe) -> MatrixRecipe:
        """Return the recipe with the precision of the search that a run on the workers' device would have."""
        if recipe.search is not Search.AUTO or self.planned_on() == self.device:
            return recipe
        found = self._answer(self._remote(has_bf16).remote())
        return recipe.model_copy(update={"search": Search.BF16 if found else Search.FP32})

    def carry_out(self, matrix: Matrix, store: Store, tasks: Sequence[Task], ledger: Ledger) -> Iterator[Done]:
        """See `ismn_cli.stages.engines.CarryOut`.

        Raises UsageError as a worker does, and at the end for a system that no worker came back from without any
        attack; CutError where the cluster is gone.
        """
        if tasks:
            yield from _Matrix(self, matrix, store, tasks, ledger).results()

    def _remote(self, function: Any) -> Any:
        # What dies is handed out again by `Dispatch`, which knows what has died how often.
        return the_ray().remote(num_cpus=1, num_gpus=int(self.gpus), max_retries=0)(function)

    def _answer(self, reference: Any) -> Any:
        """Return what a worker found. Raises what it raised, RayError where it was lost."""
        from ray.exceptions import RayTaskError

        try:
            return the_ray().get(reference)
        except RayTaskError as error:
            raise error.cause from error


class _Matrix:
    """One matrix under way."""

    def __init__(
        self, workers: Cluster, matrix: Matrix, store: Store, tasks: Sequence[Task], ledger: Ledger
    ) -> None:
        self.cluster, self.matrix, self.store, self.ledger = workers, matrix, store, ledger
        self.tasks, self.dispatch = tasks, Dispatch(tasks, ledger)
        self.numbers = {key: n for n, task in enumerate(matrix.tasks(())) for key in map(_key, task.cells)}
        self.parcel = the_ray().put(pack(matrix))
        self.work = workers._remote(work)
        self.flying: dict[Any, Unit] = {}
        self.unmade: list[str] = []

    def results(self) -> Iterator[Done]:
        try:
            while self._hand_out():
                for reference in self._landed():
                    for settled in self._settled(self.flying.pop(reference), reference):
                        yield self.tasks[settled.task], settled.index, settled.results
                        self.dispatch.release(settled.task, settled.index)
        finally:
            self._cancel()
        if self.unmade:
            raise UsageError(
                f"{', '.join(self.unmade)} ended every process that asked it about images without any attack.",
                "The other systems are done and stored. Try it on a few images here: --engine local --limit 8",
            )

    def _hand_out(self) -> bool:
        """Give all workers something to do; whether anything is under way."""
        workers = self.cluster.workers()
        while len(self.flying) < AHEAD * max(1, workers):
            unit = self.dispatch.next(workers)
            if unit is None:
                break
            self.flying[self.work.remote([self.parcel], self._order(unit))] = unit
        return bool(self.flying)

    def _order(self, unit: Unit) -> Order:
        needs, indices = self.dispatch.needs(unit.task, unit.keys), unit.span.indices()
        earlier = {(key, index): self.ledger.part(key, index) for key in needs for index in indices}
        number = self.numbers[unit.keys[0]]
        return Order(number, unit.keys, unit.span, earlier, self._stored(unit), self.cluster.device)

    def _stored(self, unit: Unit) -> Batches:
        """Return the examples that are there already, and those of the attack before, which are carried over."""
        job = self.tasks[unit.task].job
        if job is None:
            return {}
        cells = [job.cells[0][1], *([job.previous] if job.survivors and job.previous else [])]
        found: Batches = {}
        for key in (cell.examples_key() for cell in cells):
            examples = self.store.examples(key)
            batches = {index: examples.read(index) for index in unit.span.indices()}
            found[key] = {index: batch for index, batch in batches.items() if batch}
        return found

    def _landed(self) -> list[Any]:
        while True:
            landed, _ = the_ray().wait(list(self.flying), timeout=WAIT)
            self.cluster.pulse.check()
            if landed:
                return list(landed)

    def _settled(self, unit: Unit, reference: Any) -> Iterator[Settled]:
        from ray import exceptions

        try:
            outcome: Outcome = self.cluster._answer(reference)
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            hopeless = self.dispatch.died(unit)
            _LOG.debug("%s: %s", unit, error)
        except exceptions.RayError as error:
            _LOG.debug("%s: %s", unit, error)
            hopeless = self.dispatch.lost(unit)
        else:
            self._keep(outcome.made)
            yield from self.dispatch.done(unit, outcome.results, outcome.seconds)
            return
        if hopeless:
            yield from self._given_up(unit)

    def _keep(self, made: Batches) -> None:
        for key, batches in made.items():
            examples = self.store.examples(key)
            for index, batch in batches.items():
                examples.put_batch(index, *batch)

    def _given_up(self, unit: Unit) -> Iterator[Settled]:
        task, (index,) = self.tasks[unit.task].only(unit.keys), unit.span.indices()
        _LOG.warning("%s: batch %d ended every worker that tried it; it is given up.", task.label(), index)
        if task.job is None:
            self.unmade.append(task.cells[0][0].subject.name)
            yield from self.dispatch.drop(unit.keys[0])
            return
        bench, n = self.matrix.bench(self.store.examples), len(self.ledger.part(task.clean[0], index).ids)
        why = f"the process at work on {n} samples ended each time: killed, out of memory, or crashed below Python"
        yield from self.dispatch.put(unit, [given_up(bench, task, index, self.ledger.part, why)])

    def _cancel(self) -> None:
        for reference in self.flying:
            with suppress(Exception):  # whatever is left of the cluster
                the_ray().cancel(reference, force=True)


def _key(pair: tuple[Resolved, Cell]) -> str:
    return pair[1].key()


def _workers(resources: dict[str, float], gpus: bool) -> int:
    return int(resources.get("GPU" if gpus else "CPU", 0))


def _on_gpus(device: str, resources: dict[str, float]) -> bool:
    """Whether each worker gets a GPU. Raises UsageError for what the cluster does not have."""
    gpus = resources.get("GPU", 0) >= 1
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Ray chooses the device of each worker, not '{device}'.", "Give --device auto, cpu or cuda.")
    if device == "cuda" and not gpus:
        raise UsageError("No node of the Ray cluster has a GPU.", "Give --device cpu.")
    on_gpus = gpus and device != "cpu"
    if not on_gpus and resources.get("CPU", 0) < 1:
        raise UsageError("No node of the Ray cluster has a CPU core to give.", "Add nodes: ray start --address ...")
    return on_gpus
