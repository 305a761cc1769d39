"""Memory under many images and many cells: peaks of one process, in which everything has been loaded before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

PATIENCE = 300
NET = """
from torch import nn

def net(size: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(size // 4), nn.Flatten(), nn.Linear(48, 2))
"""
PEAKS = """
import contextlib, ctypes, gc, io, json, sys
from pathlib import Path
from ismn_cli.cli.app import exit_code

def peak(arguments):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # it begins anew
    with contextlib.redirect_stdout(io.StringIO()):
        assert exit_code(arguments) == 0, arguments
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])

print(json.dumps([peak(arguments) for arguments in json.loads(sys.argv[1])]))
"""
MIB = 2**20
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384"}
"""What is freed goes back to the system at once: room that was left over would hide what is kept."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of the memory is read from Linux's /proc")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def images(path: Path, n: int, size: int) -> int:
    """Write ``n`` random images to ``path``; return how many bytes they are."""
    pixels = np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    np.savez(path, x_test=pixels, y_test=np.arange(n) % 2)
    return pixels.nbytes


def attack(data: Path, size: int, eps: Iterable[float]) -> list[str]:
    where = ["--dataset", "npz", "--data-dir", str(data), "--model", "net.py:net", "--model-arg", f"size={size}"]
    how = ["--method", "fgsm", "--eps", ",".join(map(str, eps)), "--batch-size", "16", "--skip-doctor"]
    return ["attack", *how, *where]


def peaks(home: Path, *commands: list[str]) -> list[int]:
    """Return the peak of each command, one after the other in one process. The first loads what all need."""
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, json.dumps(commands)],
        cwd=home,
        env=os.environ | ENVIRONMENT | {"ISMN_HOME": str(home / "home")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[int] = json.loads(done.stdout)
    return found


def test_images_stream(home: Path) -> None:
    """Nine times the images take their own bytes more: neither their floats, four times as many, nor a second copy."""
    _, few, many = (images(home / f"{n}.npz", n, 96) for n in (31, 32, 288))
    _, before, after = peaks(home, *(attack(home / f"{n}.npz", 96, [0.1]) for n in (31, 32, 288)))
    assert after - before < 1.5 * (many - few), f"{(after - before) / MIB:.1f} MiB for {(many - few) / MIB:.1f}"


def test_cells_leave_nothing_but_their_columns(home: Path) -> None:
    """A hundred cells more take a part of what their examples are."""
    sizes = [k / 1000 for k in range(1, 105)]
    for n in (16, 96):
        images(home / f"{n}.npz", n, 16)
    # All begin with one size: the attack's self-test, which takes more than all of this, is for the smallest.
    grids = ((16, sizes[:1]), (96, sizes[:4]), (96, sizes))
    _, before, after = peaks(home, *(attack(home / f"{n}.npz", 16, grid) for n, grid in grids))
    examples = 100 * 96 * 4 * 3 * 16**2
    assert after - before < examples / 3, f"{(after - before) / MIB:.1f} MiB for {examples / MIB:.1f}"
