"""Peak memory of `ismn attack` under more and more images, and under more and more cells; and the store under many.

    python benchmarks/memory_stream.py [--small 1000,4000,10000] [--large 250,500,1000] [--cells 100,1000]

Each line is a process of its own: FGSM on random images and a net of a few weights, so that everything else shows.
Images at 32x32 are read from an .npz file into memory, once, as bytes; those at 512x512 are a folder of JPEGs, whose
decoded bytes are mapped from a file. The peak is of the process's private memory, looked at every hundredth of a
second: what is mapped from files, libraries too, does not count, and what is freed is given back at once. "Beside the
images" is what is left without the bytes in memory; slopes are from the first line of a kind to the last. Cells are two
attacks at two levels in ever more sizes, on 16 images. Of the examples no more than a GiB is left on the disk. Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ismn_cli.core.store import Store

MIB = 2**20
KEPT = 2**30
"""Bytes of examples that are left on the disk."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
NET = """
from torch import nn

def net(size: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(size // 4), nn.Flatten(), nn.Linear(48, 2))
"""
ISMN = (sys.executable, "-c", "import sys; from ismn_cli.cli.app import exit_code; sys.exit(exit_code(sys.argv[1:]))")
METHODS, LEVELS = ("fgsm", "uniform-noise"), ("gray", "white")
FEW = 16
"""Images of a small cell."""


class Taken(NamedTuple):
    """What a run took."""

    n: int
    data: int
    """Bytes of images in its memory."""
    peak: int
    """Bytes."""
    seconds: float


def main() -> None:
    """Print a table for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=numbers, default="1000,4000,10000", help="numbers of images at 32x32")
    parser.add_argument("--large", type=numbers, default="250,500,1000", help="numbers of images at 512x512")
    parser.add_argument("--cells", type=numbers, default="100,1000", help="numbers of cells, by fours")
    given = parser.parse_args()
    print(f"{'':24}{'images in':>12}{'peak':>9}{'beside the':>12}{'':>10}")
    print(f"{'':24}{'memory, MiB':>12}{'MiB':>9}{'images, MiB':>12}{'seconds':>10}")
    told("images at 32x32", [small(n) for n in given.small])
    told("images at 512x512", [large(n) for n in given.large])
    told(f"cells of {FEW} images", [cells(n) for n in given.cells])


def numbers(text: str) -> list[int]:
    """Read "1000,4000"."""
    return sorted(int(part) for part in text.split(","))


def told(what: str, runs: Sequence[Taken]) -> None:
    """Print a line for each run, and what one more costs."""
    for run in runs:
        name = f"{run.n:,} {what}"
        print(f"{name:24}{run.data / MIB:12.0f}{run.peak / MIB:9.0f}{beside(run) / MIB:12.0f}{run.seconds:10.0f}")
    if len(runs) > 1:
        first, last = runs[0], runs[-1]
        print(f"    each more: {(beside(last) - beside(first)) / (last.n - first.n) / 1024:.2f} KiB", flush=True)


def beside(run: Taken) -> int:
    """Return the bytes that are no images."""
    return run.peak - run.data


def small(n: int) -> Taken:
    """Attack ``n`` images at 32x32 of one file."""
    with tempfile.TemporaryDirectory() as folder:
        data = archive(Path(folder), n)
        peak, seconds = attack(Path(folder), "npz", 32, ["--method", "fgsm", "--eps", "8/255"])
    return Taken(n, data, peak, seconds)


def large(n: int) -> Taken:
    """Attack ``n`` images at 512x512 of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0)
        for i in range(n):
            place = Path(folder, "data", "test", "ab"[i % 2], f"{i:05d}.jpg")
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((512, 512)).save(place, quality=60)
        options = ["--method", "fgsm", "--eps", "8/255", "--image-size", "512"]
        peak, seconds = attack(Path(folder), "folder", 512, options)
    return Taken(n, 0, peak, seconds)


def cells(n: int) -> Taken:
    """Make ``n`` attacked cells of few images; then ask the store for each, and for a report."""
    count = n // (len(METHODS) * len(LEVELS))
    sizes = ",".join(f"{(k + 1) / (4 * count):.6f}" for k in range(count))
    options = ["--method", ",".join(METHODS), "--knowledge", ",".join(LEVELS), "--eps", sizes]
    with tempfile.TemporaryDirectory() as folder:
        data = archive(Path(folder), FEW)
        peak, seconds = attack(Path(folder), "npz", 32, options)
        lookups(Path(folder))
        for form in ("markdown", "html"):
            report, took = watched(Path(folder), ["report", "--format", form])
            print(f"    ismn report --format {form}: {took:.1f} s, {report / MIB:.0f} MiB")
    return Taken(count * len(METHODS) * len(LEVELS), data, peak, seconds)


def lookups(folder: Path) -> None:
    """Print how long the store takes to find a cell."""
    store = Store(folder / "home")
    ((run),) = store.runs()
    times = []
    for key in run.record.cells:
        start = time.perf_counter()
        assert store.cell(key) is not None
        times.append(1000 * (time.perf_counter() - start))
    median, slowest = statistics.median(times), statistics.quantiles(times, n=100)[-1]
    print(f"store of {len(times):,} cells: {median:.2f} ms a lookup, {slowest:.2f} ms the slowest of a hundred")


def archive(folder: Path, n: int) -> int:
    """Write ``n`` random images; return how many bytes they are."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", x_test=pixels, y_test=np.arange(n) % 2)
    return pixels.nbytes


def attack(folder: Path, dataset: str, size: int, options: Sequence[str]) -> tuple[int, float]:
    """Run `ismn attack` on the images in ``folder``; return the peak of its memory, in bytes, and the seconds."""
    (folder / "net.py").write_text(NET)
    data = folder / ("data.npz" if dataset == "npz" else "data")
    where = ["--dataset", dataset, "--data-dir", str(data), "--model", "net.py:net", "--model-arg", f"size={size}"]
    return watched(folder, ["attack", "--skip-doctor", *where, *options])


def watched(folder: Path, arguments: Sequence[str]) -> tuple[int, float]:
    """Run a command; return the peak of its private memory, in bytes, and the seconds."""
    start, peak, swept = time.perf_counter(), 0, 0.0
    environment = os.environ | ENVIRONMENT | {"ISMN_HOME": str(folder / "home")}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([*ISMN, *arguments], cwd=folder, env=environment, stdout=said, stderr=said)
        while process.poll() is None:
            peak = max(peak, private(process.pid))
            if time.perf_counter() - swept > 1:
                sweep(folder / "home" / "examples")
                swept = time.perf_counter()
            time.sleep(0.01)
    if process.returncode:
        sys.exit((folder / "said").read_text()[-2000:])
    return peak, time.perf_counter() - start


def private(pid: int) -> int:
    """Return the bytes of a process's memory that belong to no file; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def sweep(examples: Path) -> None:
    """Remove the oldest examples where there are too many; nothing reads them once they are judged."""
    found = sorted(examples.glob("*/*/batch-*.safetensors"))
    for path in found[: -max(1, KEPT // max(path.stat().st_size for path in found))] if found else ():
        path.unlink()


if __name__ == "__main__":
    main()
