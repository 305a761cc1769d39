"""How a matrix is cut into jobs, and what they ask for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.errors import UsageError
from ismn_cli.core.forecast import Charge, Forecast
from ismn_cli.core.outlook import Footprint, Outlook, PlannedSystem
from ismn_cli.core.parts import shard_span
from ismn_cli.core.slurm import HOUR, MOST, SAFETY, jobs_of

GIB = 2**30


def _forecast(each: float, fixed: float = 0.0) -> Forecast:
    charge = Charge("white", "pgd", ("none",), 10, 10, 1.0, each, 0.0, 100)
    return Forecast((charge,), fixed, images=0, available=10**6, pilot=48)


def _outlook(device: str = "cpu", peak: int | None = GIB, cells: int = 6) -> Outlook:
    systems = (PlannedSystem("none", "released", True, cells, 0),)
    steps = (Footprint("none", "attack", 32, None, None), Footprint("none", "attack", 32, peak, None))
    return Outlook("mine", "cifar10", 0, systems, (), steps, None, device)


@given(
    each=st.floats(0, 100), images=st.integers(1, 60_000), batch=st.integers(1, 512), held=st.integers(0, 10**10),
    fixed=st.floats(0, 1e4),
)  # fmt: skip
def test_no_shard_takes_longer_than_it_asks_for(each: float, images: int, batch: int, held: int, fixed: float) -> None:
    jobs = jobs_of(_forecast(each, fixed), _outlook(), images, batch, held)
    batches = math.ceil(images / batch)
    assert 1 <= jobs.shards <= min(batches, MOST)
    spans = [shard_span(batches, shard, jobs.shards) for shard in range(1, jobs.shards + 1)]
    longest = max(min(images, span.last * batch) - span.first * batch for span in spans)
    assert jobs.shard.seconds >= SAFETY * longest * each
    assert jobs.forecast == pytest.approx(min(images, max(len(span.indices()) for span in spans) * batch) * each)
    assert jobs.shard.memory >= SAFETY * held and jobs.report.memory >= jobs.shard.memory
    assert jobs.report.seconds >= SAFETY * fixed
    if jobs.shards < min(batches, MOST):  # about an hour: at most one batch more
        assert jobs.forecast <= HOUR + 2 * batch * each


@given(st.integers(1, 1000), st.integers(1, 64), st.integers(-3, 1000))
def test_the_number_that_is_asked_for_is_kept_or_refused(images: int, batch: int, shards: int) -> None:
    batches = math.ceil(images / batch)
    if 1 <= shards <= batches:
        assert jobs_of(_forecast(1.0), _outlook(), images, batch, 0, shards).shards == shards
    else:
        with pytest.raises(UsageError, match="cannot be cut") as refused:
            jobs_of(_forecast(1.0), _outlook(), images, batch, 0, shards)
        assert f"from 1 to {batches}" in refused.value.hint


def test_memory_is_that_of_the_dearest_step_on_a_cpu_and_of_the_process_on_a_gpu() -> None:
    dear, held = _outlook(peak=40 * GIB), GIB
    on_cpu, on_gpu = (jobs_of(_forecast(1.0), where, 100, 10, held) for where in (dear, replace(dear, device="cuda:0")))
    assert on_cpu.shard.memory >= SAFETY * 40 * GIB
    assert SAFETY * held <= on_gpu.shard.memory < 3 * held
    assert jobs_of(_forecast(1.0), _outlook(peak=None), 100, 10, 0).shard.memory >= SAFETY * GIB / 2


def test_the_last_job_holds_all_results() -> None:
    few, many = (jobs_of(_forecast(0.0), _outlook(cells=cells), 50_000, 32, GIB) for cells in (5, 500))
    assert many.report.memory - few.report.memory > 495 * 50_000 * 260
    assert many.report.seconds > few.report.seconds
