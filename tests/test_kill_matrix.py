"""The benchmark of kills, on a program that hangs until it was started often enough: it kills, counts, compares."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_matrix import Start, killed, left_alone, moments, report

PROGRAM = """
import sys, time
from pathlib import Path
folder, started, ends = Path(sys.argv[1]) / "runs/r", int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
(folder / "record.json").write_text("")
time.sleep(0.3 if started == ends else 600)
(folder / "report.csv").write_text(REPORT)
"""
HONEST, FORGETFUL = "'always the same'", "f'started {started} times'"


def program(report_text: str, ends: int = 1) -> Start:
    """Return a program that ends at its ``ends``-th start only, and has stored a cell more at each."""
    code = PROGRAM.replace("REPORT", report_text)
    starts = iter(range(1, 100))

    def start(home: Path) -> subprocess.Popen[bytes]:
        started = next(starts)
        cell = home / "cells" / "aa" / f"{started}.json"
        cell.parent.mkdir(parents=True, exist_ok=True)
        cell.touch()
        with (home / "log.txt").open("ab") as log:
            command = [sys.executable, "-c", code, str(home), str(started), str(ends)]
            return subprocess.Popen(command, stdout=log, stderr=log)

    return start


@given(st.integers(1, 50), st.floats(0.1, 1e5), st.integers())
def test_moments_are_spread_over_the_duration(kills: int, seconds: float, seed: int) -> None:
    found = moments(kills, seconds, random.Random(seed))
    parts = [moment * kills / seconds for moment in found]
    assert all(i - 1e-9 <= part <= i + 1 + 1e-9 for i, part in enumerate(parts))
    assert found == moments(kills, seconds, random.Random(seed))


@pytest.mark.parametrize(("report_text", "same"), [(HONEST, True), (FORGETFUL, False)])
def test_each_kill_is_counted_and_a_difference_is_seen(tmp_path: Path, report_text: str, same: bool) -> None:
    whole = left_alone(program(report_text), tmp_path / "whole")
    assert whole.working >= 0.2
    kills = list(killed(program(report_text, ends=4), tmp_path / "killed", [0.2, 0.3, 0.5], 0.1))
    assert [kill.cells for kill in kills] == [1, 2, 3]
    assert [kill.after for kill in kills] == pytest.approx([0.3, 0.2, 0.3])
    assert (report(tmp_path / "whole") == report(tmp_path / "killed")) is same


def test_a_program_that_ends_first_leaves_nothing_to_kill(tmp_path: Path) -> None:
    assert list(killed(lambda home: program(HONEST)(home), tmp_path / "killed", [60.0], 0.0)) == []
    assert report(tmp_path / "killed") == b"always the same"


def test_a_program_that_fails_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        left_alone(program("1 / 0"), tmp_path / "whole")
