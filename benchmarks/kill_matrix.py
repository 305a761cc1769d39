"""Whether a matrix that is killed again and again ends in the same report as one that was left alone.

A recipe is run twice on scratch stores, each time as a process of its own: once uninterrupted, to measure how long it
takes, and once killed (SIGKILL) at random moments and continued by the same command each time. The moments are spread
over the duration of the first run, one in each of as many equal parts. Compared are the two report.csv byte by byte;
and no file may be left torn, which the store would have set aside.

    python benchmarks/kill_matrix.py --limit 20 --data-dir DIR
    python benchmarks/kill_matrix.py --limit 4 --kills 3 dataset.name=cifar10-mini attack.eps=8/255
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ISMN = (sys.executable, "-c", "from ismn_cli.cli.app import main; main()")
LOG = "log.txt"
GLANCE = 0.02
"""Seconds between two looks at a process."""
Start = Callable[[Path], subprocess.Popen[bytes]]
"""Starts the matrix, or continues it, with the store in that folder."""


@dataclass(frozen=True)
class Whole:
    """A run that was left alone: seconds until its first trace in the store, and seconds of work after it."""

    starting: float
    working: float


@dataclass(frozen=True)
class Kill:
    """A kill: its moment in seconds of work and of that process, and what the store held then."""

    moment: float
    after: float
    cells: int
    batches: int


def main() -> int:
    """Run both, print kills and verdict; 1 where the reports differ, a file was torn or a kill came too late."""
    arguments = _parser().parse_args()
    rng, console = random.Random(arguments.seed), Console()
    start = _matrix(arguments)
    with _folder(arguments.home) as home:
        whole = left_alone(start, home / "whole")
        console.print(f"left alone: {whole.starting + whole.working:.1f} s, {_made(home / 'whole')[0]} cells")
        planned = moments(arguments.kills, whole.working, rng)
        kills = list(killed(start, home / "killed", planned, whole.starting))
        torn = len(list((home / "killed" / "corrupt").glob("*")))
        same = report(home / "whole") == report(home / "killed")
    _show(console, kills)
    told = "the same bytes" if same else "DIFFERENT"
    console.print(f"{len(kills)} of {arguments.kills} kills; {torn} files torn; report.csv: {told}")
    return 0 if same and not torn and len(kills) == arguments.kills else 1


def left_alone(start: Start, home: Path) -> Whole:
    """Run to the end and time it. Raises RuntimeError where it fails."""
    home.mkdir(parents=True)
    began = time.monotonic()
    process = start(home)
    with _ended(process):
        while process.poll() is None and not list(home.glob("runs/*/record.json")):
            time.sleep(GLANCE)
        starting = time.monotonic() - began
        process.wait()
    _check(process, home)
    return Whole(starting, time.monotonic() - began - starting)


def moments(kills: int, seconds: float, rng: random.Random) -> list[float]:
    """Return a moment in each of ``kills`` equal parts of a duration."""
    return [(part + rng.random()) * seconds / kills for part in range(kills)]


def killed(start: Start, home: Path, planned: Sequence[float], starting: float) -> Iterator[Kill]:
    """Yield each kill, then run to the end; a process that ends before its moment leaves nothing to kill.

    What a kill loses is done again and what was done is not, so the work behind a moment is at most its seconds.
    """
    home.mkdir(parents=True)
    for before, moment in zip((0.0, *planned), planned, strict=False):
        after = starting + moment - before
        process = start(home)
        with _ended(process):
            if _ends_within(process, after):
                _check(process, home)
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
        yield Kill(moment, after, *_made(home))
    process = start(home)
    with _ended(process):
        process.wait()
    _check(process, home)


def report(home: Path) -> bytes:
    """Return the report of the only run in a store. Raises ValueError for another number of runs."""
    (path,) = home.glob("runs/*/report.csv")
    return path.read_bytes()


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind, whatever happens here."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _check(process: subprocess.Popen[bytes], home: Path) -> None:
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}:\n{(home / LOG).read_text(errors='replace')[-2000:]}")


def _made(home: Path) -> tuple[int, int]:
    """Return how many cells and how many batches of examples a store holds."""
    cells, batches = home.glob("cells/*/*.json"), home.glob("examples/*/*/*.safetensors")
    return len(list(cells)), len(list(batches))


def _matrix(arguments: argparse.Namespace) -> Start:
    command = [*ISMN, "run", arguments.recipe, *arguments.overrides, "--device", "cpu"]
    command += ["--limit", str(arguments.limit)] if arguments.limit is not None else []
    command += ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []

    def start(home: Path) -> subprocess.Popen[bytes]:
        environment = os.environ | {"ISMN_HOME": str(home)}
        with (home / LOG).open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    return start


@contextmanager
def _folder(home: Path | None) -> Iterator[Path]:
    if home is not None:
        yield home.absolute()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the recipe to override")
    parser.add_argument("--recipe", default="matrix-cifar10", help="name or path (default: matrix-cifar10)")
    parser.add_argument("--limit", type=int, help="images (default: as the recipe says)")
    parser.add_argument("--kills", type=int, default=10, help="how often to kill (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--data-dir", type=Path, help="folder that holds cifar-10-batches-bin or -py")
    parser.add_argument("--home", type=Path, help="new folder for both stores, kept (default: scratch, removed)")
    return parser


def _show(console: Console, kills: Sequence[Kill]) -> None:
    table = Table()
    for heading in ("kill", "moment, s of work", "s after its start", "cells stored", "batches of examples stored"):
        table.add_column(heading, justify="right")
    for number, kill in enumerate(kills, 1):
        table.add_row(
            str(number), f"{kill.moment:.1f}", f"{kill.after:.1f}", f"{kill.cells:,}", f"{kill.batches:,}"
        )
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
