"""A matrix that is killed again and again ends in the same files as one that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ismn_cli.core.store import Store

WORLD = Path(__file__).parents[1] / "cli" / "small_world.py"
KILLS = 4
RECIPE = """
task: matrix
name: killed
defence: [none, ismn, magnet, median]
knowledge: [gray, black, white, adaptive]
attack:
  method: [pgd]
  method_at: {black: [square]}
  eps: 0.06
  params: {square: {n_queries: 10}}
weights: auto
batch_size: 20
draws: 3
survivors: true
"""


@pytest.fixture
def homes(trained, store: Store, released: Path, tmp_path: Path) -> tuple[Path, Path]:
    base = trained("classifier").run.record.id
    for name in ("ismn", "magnet"):
        trained(name, classifier=base)
    other = tmp_path / "other"
    shutil.copytree(store.root, other)
    (tmp_path / "killed.yaml").write_text(RECIPE)
    return store.root, other


def _start(home: Path, pause: float) -> subprocess.Popen[bytes]:
    root = WORLD.parents[2]
    path = os.pathsep.join([str(root), str(root / "models"), os.environ.get("PYTHONPATH", "")])
    environment = {
        "SMALL_WORLD_RELEASED": str(home.parent / "released"),
        "SMALL_WORLD_PASS": str(pause),
        "ISMN_HOME": str(home),
        "PYTHONPATH": path,
    }
    command = [sys.executable, str(WORLD), "run", str(home.parent / "killed.yaml"), "--device", "cpu"]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _made(home: Path) -> int:
    return sum(1 for folder in ("examples", "cells") for path in (home / folder).rglob("*") if path.is_file())


def _kill_after_some_work(home: Path, rng: random.Random) -> None:
    """Let the run make a few files more, then kill it at a random moment of the next."""
    process = _start(home, 0.01)
    try:
        wanted, deadline = _made(home) + rng.randint(1, 6), time.monotonic() + 60
        while _made(home) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.random() * 0.2)
        assert process.poll() is None, process.stdout.read().decode()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def test_killed_at_random_moments(homes: tuple[Path, Path]) -> None:
    left_alone, killed = homes
    rng = random.Random(os.urandom(8))
    for _ in range(KILLS):
        _kill_after_some_work(killed, rng)
    before = _made(killed)
    for home in homes:
        process = _start(home, 0)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output.decode()
    assert before > 0
    reports = [Store.open(home).run("latest").folder / "report.csv" for home in (left_alone, killed)]
    assert reports[0].read_bytes() == reports[1].read_bytes()
    assert len(reports[0].read_text().splitlines()) > 4
