"""Whether a matrix over Ray ends in the same report as a local one that was left alone, whatever is killed on the way.

A recipe is run once by the local engine, and once with `--engine ray`, while processes of it are killed (SIGKILL) at
random moments: a worker, after which the run has to go on by itself; the driver, the head (GCS) and the node (raylet),
after which the same command has to continue. Compared are the two report.csv byte by byte; no stored cell may have
been written twice, no file may be torn, and no process may be left.

    python benchmarks/kill_cluster.py --kills 3
    python benchmarks/kill_cluster.py --kills 5 --limit 60 attack.eps=8/255
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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from kill_matrix import ISMN, LOG, report
from rich.console import Console

PROCESSES = {"worker": "ray::work", "driver": "", "head": "gcs_server", "node": "raylet"}
"""What is killed, and how its process is called."""
EXPECTED = {"worker": (None, 0), "driver": (-signal.SIGKILL, 0), "head": (2, 0), "node": (1, 2, 0)}
"""The exit codes; None: it goes on, 0: it had done all already. Ray ends a driver whose node is gone with 1."""
PATIENCE = 120.0
"""Seconds in which a driver whose cluster is gone has to end. One whose cluster dies as it starts begins again."""
RECIPE = """
task: matrix
name: killed
defence: [none, median, jpeg]
knowledge: [gray, white]
dataset: {name: cifar10-mini}
attack: {method: [fgsm, pgd], eps: [4/255, 8/255]}
weights: released
batch_size: 8
survivors: true
"""


@dataclass(frozen=True)
class Home:
    """A store, and what the run in it says."""

    place: Path
    command: tuple[str, ...]

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        self.place.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"ISMN_HOME": str(self.place), "OMP_NUM_THREADS": "1"}
        with (self.place / LOG).open("ab") as log:
            return subprocess.Popen([*self.command, *options], env=environment, stdout=log, stderr=subprocess.STDOUT)

    def said(self) -> str:
        return (self.place / LOG).read_text(errors="replace")

    def cells(self) -> dict[str, int]:
        """Return when each cell was stored, in nanoseconds."""
        return {path.name: path.stat().st_mtime_ns for path in self.place.glob("cells/*/*.json")}

    def made(self) -> int:
        return len(self.cells()) + sum(1 for _ in self.place.glob("examples/*/*/*.safetensors"))


def main() -> int:
    """Print each kill and the verdict; 1 where anything differs, was torn, made twice or left over."""
    arguments, console = _parser().parse_args(), Console()
    rng, wrong = random.Random(arguments.seed), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "killed.yaml").write_text(RECIPE)
        command = [*ISMN, "run", f"{scratch}/killed.yaml", *arguments.overrides, "--limit", str(arguments.limit)]
        command += ["--device", "cpu"]
        alone, home = Home(Path(scratch) / "alone", tuple(command)), Home(Path(scratch) / "killed", tuple(command))
        if alone.start().wait():
            raise RuntimeError(alone.said()[-2000:])
        whole, stored = alone.made(), dict[str, int]()
        console.print(f"left alone: {len(alone.cells())} cells, {whole} files")
        told_to = 0
        planned = [what for _ in range(arguments.kills) for what in arguments.what.split(",")]
        done = 0
        for number, what in enumerate(planned):
            if home.made() >= whole:
                break  # nothing is left to be lost
            done += 1
            code, seconds = _kill(home, what, whole * (number + rng.random()) / len(planned), rng)
            told = "goes on" if code is None else f"exit code {code} after {seconds:.1f} s"
            console.print(f"{what}: {told}; {len(home.cells())} cells, {home.made()} of {whole} files")
            time.sleep(1)  # what tells of a death needs a moment itself
            before, told_to = told_to, home.said().count("continue:")
            if code not in EXPECTED[what] or (code and told_to <= before):
                wrong.append(f"{what}: {told}\n{home.said()[-2000:]}")
            wrong += _twice(stored, home.cells())
        process = home.start("--engine", "ray")
        if process.wait():
            wrong.append(home.said()[-2000:])
        wrong += _twice(stored, home.cells())
        if not wrong and report(home.place) != report(alone.place):
            wrong.append("the reports differ")
        wrong += [f"torn: {path}" for path in home.place.glob("corrupt/*")]
        time.sleep(3)
        wrong += [f"left over: {name}" for name in _left(str(home.place))]
    console.print("\n".join(wrong) if wrong else f"{done} kills; report.csv: the same bytes")
    return 1 if wrong else 0


def _kill(home: Home, what: str, files: float, rng: random.Random) -> tuple[int | None, float]:
    """Run until there are so many files, kill, and return the run's exit code, None if it goes on, and its seconds."""
    process = home.start("--engine", "ray")
    try:
        while (victim := _victim(process.pid, what, rng)) is None or home.made() < files:
            if process.poll() is not None:
                return process.returncode, 0.0
            time.sleep(0.02)
        time.sleep(rng.random() * 0.3)
        killed = time.monotonic()
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        if what == "worker":
            time.sleep(2)
            return process.poll(), time.monotonic() - killed
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        return process.poll(), time.monotonic() - killed
    finally:
        process.kill()
        process.wait()


def _victim(pid: int, what: str, rng: random.Random) -> psutil.Process | None:
    try:
        driver = psutil.Process(pid)
        children = driver.children(recursive=True)
        if what == "driver":  # once it is at work: before that it has nothing to say
            return driver if any(p.name().startswith(PROCESSES["worker"]) for p in children) else None
        found = [p for p in children if p.name().startswith(PROCESSES[what])]
    except psutil.NoSuchProcess:
        return None
    return rng.choice(found) if found else None


def _twice(stored: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return which cells were written again or are gone; ``stored`` is brought up to date."""
    found = [f"made twice or lost: {name}" for name, when in stored.items() if now.get(name) != when]
    stored.update(now)
    return found


def _left(place: str) -> Iterator[str]:
    """Yield Ray's processes that belong to a run in ``place``."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("ISMN_HOME") == place and process.status() != psutil.STATUS_ZOMBIE:
                yield f"{process.pid} {process.name()}"
        except psutil.Error:
            continue


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the recipe to override")
    parser.add_argument("--kills", type=int, default=3, help="how often each is killed (default: 3)")
    parser.add_argument("--what", default=",".join(PROCESSES), help="what is killed (default: all)")
    parser.add_argument("--limit", type=int, default=40, help="images (default: 40)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the moments (default: another each time)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
