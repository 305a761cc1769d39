"""A report over 200 runs of 10,000 samples: under 20 s and 1 GiB, without torch; cells pass one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import big_store
import pytest
from report_cells import cell, levels, matrix, result

from ismn_cli.core.records import CellResult
from ismn_cli.core.store import Store
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.paired_table import paired_report

RUNS, SAMPLES = 200, 10_000
SECONDS, MEGABYTES = 20, 1024
COMMAND = """
import resource, sys
from ismn_cli.cli.app import exit_code
code = exit_code(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = {"torch", "torchvision", "scipy", "statsmodels"} & set(sys.modules)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # ru_maxrss begins with that of who started it
print(used.ru_utime + used.ru_stime, int(status["VmHWM"].split()[0]) // 1024, *heavy, file=sys.stderr)
sys.exit(code)
"""
"""Tells the time of the processor, which other processes do not change much, and the peak of the memory."""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("big")
    assert big_store.fill(root, RUNS, SAMPLES) == 2 * RUNS
    yield root
    for path in root.glob("cells/*/*.json"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of the memory is read from /proc")
@pytest.mark.parametrize("form", ["markdown", "json", "html"])
def test_two_hundred_runs_of_ten_thousand_samples(big: Path, form: str, tmp_path: Path) -> None:
    out = tmp_path / "report"
    arguments = [sys.executable, "-c", COMMAND, "report", "--format", form, "-o", str(out), "--store", str(big)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, peak, *heavy = done.stderr.splitlines()[-1].split()
    assert not heavy and float(seconds) < SECONDS and int(peak) < MEGABYTES, done.stderr[-200:]
    if form == "json":
        assert sum(row["attacks"] is None for row in json.loads(out.read_text())["rows"]) == 2 * RUNS


def test_the_cells_written_fast_are_cells(tmp_path: Path) -> None:
    assert big_store.fill(tmp_path, 80, 30) == 160
    store = Store(tmp_path)
    keys = [key for run in store.runs() for key in run.record.cells]
    found = [stored for key in keys if (stored := store.cell(key))]
    assert len(found) == 160 and {len(stored.ids) for stored in found} == {30}


def held(results: list[CellResult]) -> Iterator[CellResult]:
    """Yield copies, and check that each is let go before the next but one is asked for."""
    from weakref import ref

    given: list[ref[CellResult]] = []
    for one in results:
        copy = one.model_copy()
        given.append(ref(copy))
        yield copy
        del copy
        assert sum(seen() is not None for seen in given) <= 1


def test_results_pass_one_at_a_time() -> None:
    found = [*levels(), result(cell("none", None), matrix()[0].clean)]
    assert comparison_report(held(found)).rows == comparison_report(found).rows
    first = paired_report(held(levels()), "none", "magnet").rows
    assert first == paired_report(levels(), "none", "magnet").rows
