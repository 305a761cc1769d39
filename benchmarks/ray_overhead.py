"""What Ray costs: the same cells by two workers of a thread each, and by the local engine on as many threads.

Both compute the same cells on Table 1's released classifier, in turns, each into a new store; the median of the pairs'
ratios is reported, and whether the cells are the same. Ray's start and the workers' imports are told apart, not
counted. With --cells many cells of a few images are computed over Ray instead, and the driver's memory is watched.

    python benchmarks/ray_overhead.py --limit 192 --repeats 5
    python benchmarks/ray_overhead.py --cells 1000
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from ray.cluster_utils import Cluster as Nodes
from rich.console import Console

from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CLOCKS, CellResult
from ismn_cli.core.store import Store
from ismn_cli.stages.cluster import Cluster, cluster
from ismn_cli.stages.engines import CarryOut, locally
from ismn_cli.stages.matrix import compute
from ismn_cli.stages.plan import Matrix, plan_matrix

WANTED = 0.9


def main() -> int:
    """Print the figures; 1 where Ray is slower than wanted, or the cells differ."""
    arguments = _parser().parse_args()
    started = time.perf_counter()
    with _nodes(arguments.workers) as address, cluster(address, "cpu") as workers:
        ready = time.perf_counter() - started
        console = Console()
        console.print(f"Ray {ready:.1f} s to start, {workers.told()}; load {os.getloadavg()[0]:.1f} at the start")
        return _many(arguments, workers, console) if arguments.cells else _race(arguments, workers, console)


def _race(arguments: argparse.Namespace, workers: Cluster, console: Console) -> int:
    with tempfile.TemporaryDirectory() as home:
        recipe = _recipe(arguments.limit, ["8/255"], ["pgd", "mifgsm"], arguments.batch)
        seconds = _timed(recipe, Path(home) / "warm", workers.carry_out)[0]
        console.print(f"the first time over Ray, with the workers' imports: {seconds:.1f} s")
        ratios, same = [], True
        for turn in range(arguments.repeats):
            torch.set_num_threads(arguments.workers)
            local, here = _timed(recipe, Path(home) / f"local-{turn}", locally)
            torch.set_num_threads(1)
            ray, there = _timed(recipe, Path(home) / f"ray-{turn}", workers.carry_out)
            ratios.append(local / ray)
            same &= _content(here) == _content(there)
            load = os.getloadavg()[0]
            console.print(f"local {local:.2f} s, Ray {ray:.2f} s, ratio {ratios[-1]:.3f}, load {load:.1f}")
    ratio = statistics.median(ratios)
    told = "the same" if same else "DIFFERENT"
    console.print(f"throughput of Ray against local: {ratio:.3f} (median; wanted {WANTED}); cells: {told}")
    return 0 if ratio >= WANTED and same else 1


def _many(arguments: argparse.Namespace, workers: Cluster, console: Console) -> int:
    process, memory = psutil.Process(), list[tuple[int, float]]()
    sizes = [f"{i + 1}/{255 * arguments.cells}" for i in range(arguments.cells)]
    with tempfile.TemporaryDirectory() as home:
        store = Store.open(Path(home))
        matrix = _matrix(_recipe(8, sizes, ["fgsm"], 8), store)
        began, cells = time.perf_counter(), 0

        def look(results: Sequence[CellResult]) -> None:
            nonlocal cells
            cells += len(results)
            if cells % (arguments.cells // 10) == 0:
                memory.append((cells, process.memory_info().rss / 2**20))

        compute(matrix, store, lambda _: None, look, workers.carry_out)
        seconds = time.perf_counter() - began
        looked = time.perf_counter()
        for _, cell in matrix.cells():
            store.cell(cell.key())
        each = (time.perf_counter() - looked) / cells
    console.print(", ".join(f"{count:,} cells {mib:.0f} MiB" for count, mib in memory))
    told = f"{1000 * seconds / cells:.1f} ms a cell; {1000 * each:.2f} ms a lookup"
    console.print(f"{cells:,} cells: {seconds:.1f} s, {told}")
    return 0


@contextmanager
def _nodes(workers: int) -> Iterator[str]:
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": workers})
    try:
        yield nodes.address
    finally:
        nodes.shutdown()  # type: ignore[no-untyped-call]


def _timed(recipe: MatrixRecipe, home: Path, carry_out: CarryOut) -> tuple[float, list[CellResult]]:
    store = Store.open(home)
    matrix = _matrix(recipe, store)
    began = time.perf_counter()
    found, _ = compute(matrix, store, lambda _: None, lambda _: None, carry_out)
    return time.perf_counter() - began, [found[cell.key()] for _, cell in matrix.cells()]


def _matrix(recipe: MatrixRecipe, store: Store) -> Matrix:
    return plan_matrix(recipe, store, None, "cpu")


def _recipe(limit: int, sizes: Sequence[str], methods: Sequence[str], batch: int) -> MatrixRecipe:
    return MatrixRecipe.model_validate(
        {
            "name": "overhead",
            "dataset": {"name": "cifar10-mini", "limit": limit},
            "defence": ["none"],
            "knowledge": "gray",
            "attack": {"method": methods, "eps": sizes},
            "weights": "released",
            "batch_size": batch,
        }
    )


def _content(results: Sequence[CellResult]) -> list[dict[str, object]]:
    return [result.model_dump(mode="json", exclude=set(CLOCKS)) for result in results]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=192, help="images of cifar10-mini (default: 192)")
    parser.add_argument("--batch", type=int, default=32, help="images a batch (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="workers, and threads of the local engine (default: 2)")
    parser.add_argument("--cells", type=int, default=0, help="so many small cells over Ray, and nothing else")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
