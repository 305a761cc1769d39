"""Measures what `study_size` multiplies: what an image, an example, a part and a cell cost on this machine.

Times are of the processor, so that what else runs here counts little; what a disk takes is not in them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from study_size import BATCH, DEFENCES, PIXELS, Measured
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from ismn_cli.audit.ceiling import ceilings
from ismn_cli.audit.records import record_findings
from ismn_cli.core.examples import Examples
from ismn_cli.core.parts import Span, rows_of, shard_span
from ismn_cli.core.picks import picks
from ismn_cli.core.recipes import DataChoice, MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Norm, Subject
from ismn_cli.core.store import Store
from ismn_cli.data.loading import load_dataset
from ismn_cli.engine.dry_run import attack_a_step
from ismn_cli.engine.memory import peak_bytes
from ismn_cli.engine.pace import pace
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.render import render_text
from ismn_cli.stages.gallery import MOST
from ismn_cli.stages.ledger import Ledger
from ismn_cli.stages.matrix import run_matrix
from ismn_cli.stages.plan import Matrix, plan_matrix
from ismn_models.shape import Shape

SIDE = 224
RECIPE = {"name": "costs", "dataset": {"name": "cifar10-mini"}, "weights": "released", "attack": {"method": "fgsm"}}
SHARDS = (8, 32)


def measure() -> Measured:
    """Return every figure, measured here."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        results = some_results(Store.open(home / "whole"))
        part, merge = _merging(results, home)
        forward, both = _gflop()
        speed = pace(resnet50(), torch.rand(16, 3, SIDE, SIDE), clock=time.process_time)
        return Measured(
            forward_gflop=forward,
            both_gflop=both,
            forward_cpu=speed.forward,
            both_cpu=speed.both,
            step_gb=peak_bytes(lambda: attack_a_step(resnet50(), Shape(1000, 3, SIDE), BATCH)) / 1e9,
            weights_gb=sum(parameter.numel() * 4 for parameter in resnet50().parameters()) / 1e9,
            process_gb=_process(),
            record_bytes=record_bytes(results),
            result_bytes=result_bytes(results),
            **_examples(home),
            part_ms=part * 1e3,
            merge_us=merge * 1e6,
            report_us=_report(results) * 1e6,
            lookup_ms=_lookup(Store(home / "whole")) * 1e3,
            plan_ms=_plan(Store(home / "whole")) * 1e3,
            pair_ns=_pairs() * 1e9,
        )


def some_results(store: Store, limit: int = 1000) -> list[CellResult]:
    """Return cells of real images and systems: three systems, clean and attacked."""
    dataset = {"name": "cifar10-mini", "limit": limit}
    recipe = MatrixRecipe.model_validate(RECIPE | {"dataset": dataset, "defence": ["none", "magnet", "ddsa"]})
    return list(run_matrix(recipe, store, None, "cpu", "run", lambda _: None).results)


def record_bytes(results: list[CellResult]) -> float:
    """Return what the store holds of an attacked cell for an image, without what it holds of it once."""
    attacked = [result for result in results if result.attacked]
    return statistics.mean((_size(r) - _size(rows_of(r, slice(0, 1)))) / (len(r.ids) - 1) for r in attacked)


def _size(result: CellResult) -> int:
    return len(json.dumps(result.model_dump(mode="json")))


def result_bytes(results: list[CellResult]) -> float:
    """Return the same in memory, as it is read from the store."""
    attacked = [result for result in results if result.attacked]
    return statistics.mean((_held(r) - _held(rows_of(r, slice(0, 1)))) / (len(r.ids) - 1) for r in attacked)


def _held(result: CellResult) -> int:
    text = result.model_dump_json()
    CellResult.model_validate_json(text)
    tracemalloc.start()
    read = CellResult.model_validate_json(text)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del read
    return held


def _merging(results: list[CellResult], home: Path) -> tuple[float, float]:
    """Return the seconds for a part, and for an image, of a cell that is put together from shards."""
    each = [_merged(results, shards, Store.open(home / f"of-{shards}")) / len(results) for shards in SHARDS]
    part = (each[1] - each[0]) / (SHARDS[1] - SHARDS[0])
    return part, (each[0] - SHARDS[0] * part) / len(results[0].ids)


def _merged(results: list[CellResult], shards: int, store: Store) -> float:
    batches, size = -(-len(results[0].ids) // BATCH), results[0].cell.batch_size
    for result in results:
        for shard in range(1, shards + 1):
            span = shard_span(batches, shard, shards)
            part = rows_of(result, slice(span.first * size, span.last * size))
            store.parts(result.cell.key()).put(span, part)
    start = time.process_time()
    ledger = Ledger(store, [result.cell.key() for result in results], Span(0, batches), batches, size)
    seconds = time.process_time() - start
    if len(ledger.found) < len(results):
        raise RuntimeError("the parts do not make the cells")
    return seconds


def _report(results: list[CellResult]) -> float:
    def both() -> None:
        record_findings(results)
        picks(results, MOST)
        render_text(comparison_report(results), "csv")

    return _seconds(both) / sum(len(result.ids) for result in results)


def _gflop() -> tuple[float, float]:
    with torch.device("meta"):
        net, x = resnet50().eval().requires_grad_(False), torch.rand(1, 3, SIDE, SIDE)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            net(x)
        with FlopCounterMode(display=False) as both:
            net(x.requires_grad_()).sum().backward()
    return forward.get_total_flops() / 1e9, both.get_total_flops() / 1e9


def _process() -> float:
    code = "import ismn_cli.stages.matrix, torch; print(open('/proc/self/status').read())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(told.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def _examples(home: Path) -> dict[str, float]:
    """Return the bytes of an example beside its pixels, and the milliseconds to write it."""
    chance = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "ids": np.arange(BATCH),
        "adversarial": chance.random((BATCH, 3, SIDE, SIDE), dtype=np.float32),
        "failed": np.zeros(BATCH, bool),
        "linf": np.zeros(BATCH, np.float32),
        "l2": np.zeros(BATCH, np.float32),
        "cost": np.zeros(3, np.int64),
        "seconds": np.zeros(1),
        "carried": np.zeros(BATCH, bool),
    }
    texts = {"notes": "[]", "via": json.dumps(["bare classifier"] * BATCH)}
    numbers = iter(range(100))
    examples = Examples(home, home / "examples")
    seconds = _seconds(lambda: examples.put_batch(next(numbers), arrays, texts))
    size = next((home / "examples").glob("*.safetensors")).stat().st_size
    return {"example_bytes": size / BATCH - 4 * PIXELS, "write_ms": seconds / BATCH * 1e3}


def _lookup(store: Store) -> float:
    keys = (f"{i:064x}" for i in range(100_000))
    return _seconds(lambda: [store.cell(next(keys)) for _ in range(1000)]) / 1000


def _plan(store: Store) -> float:
    """Return the seconds for each cell of as many systems as the study has."""
    recipe = MatrixRecipe.model_validate(
        RECIPE | {"knowledge": ["gray", "white"], "attack": {"method": ["fgsm", "pgd"]}, "defence": "none"}
    )
    matrix = plan_matrix(recipe, store, None, "cpu")
    (plain,) = matrix.systems
    named = [replace(plain, subject=Subject(name="none", weights=f"{i:064x}")) for i in range(DEFENCES)]
    many = Matrix(recipe, matrix.images, tuple(named), matrix.attacks, (), matrix.device)
    return _seconds(lambda: many.tasks(())) / len(many.cells())


def _pairs() -> float:
    """Return the seconds for a pair of images: real ones, enlarged to the study's size."""
    images = load_dataset(DataChoice(name="cifar10-mini"), "test", None, 0)
    large = nn.functional.interpolate(images.pixels.float(), size=(SIDE, SIDE), mode="bilinear")
    pixels, labels = large.to(torch.uint8).numpy(), images.labels.numpy()
    return _seconds(lambda: ceilings(pixels, labels, Norm.LINF, [8 / 255])) / (len(labels) ** 2 / 2)


def _seconds(work: Callable[[], object]) -> float:
    """Return the processor time, the median of five."""
    taken = []
    for _ in range(5):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)
