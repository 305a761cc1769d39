"""`ismn train` under torchrun, in the small world: two processes, one of them killed, and what refuses to be shared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import small_world
import torch
from safetensors.torch import load_file

from ismn_cli.core.store import Store
from ismn_cli.stages.train import CHECKPOINT

PATIENCE = 300
"""Seconds after which something hangs, however busy the machine is."""
RUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
AT = ("train", "--system", "at", "--precision", "fp32", "config.start=base", "config.epochs=5", "config.batch_size=32",
      "config.steps=2", "config.lr=0.01")  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a small world with a trained base classifier in its store."""
    root, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("world")
    environment = os.environ | {
        "ISMN_HOME": str(folder / "home"),
        "SMALL_WORLD_RELEASED": str(folder / "released"),
        "PYTHONPATH": f"{root}:{root / 'models'}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }
    one(environment, "train", "--system", "classifier", "--epochs", "1")
    return environment


def one(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, small_world.__file__, *arguments]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stderr


def several(
    environment: dict[str, str], *arguments: str, launch: tuple[str, ...] = (), **more: str
) -> subprocess.Popen[str]:
    command = [*RUN, *launch, small_world.__file__, *arguments]
    return subprocess.Popen(command, env=environment | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = several(environment, *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def elsewhere(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """The same world with another store, which has the base classifier and nothing else."""
    base = Path(environment["ISMN_HOME"])
    (run,) = base.glob("runs/*classifier*")
    shutil.copytree(run, folder / "runs" / run.name)
    return environment | {"ISMN_HOME": str(folder)}


def trained(environment: dict[str, str]) -> Path:
    (run,) = Path(environment["ISMN_HOME"]).glob("runs/train-at-*")
    return run


class Disturbed:
    """A training of two slow processes, in whose midst something happens."""

    def __init__(self, environment: dict[str, str], *launch: str) -> None:
        self.environment, before = environment, self._saved(environment)
        self.process = several(environment, *AT, launch=launch, SMALL_WORLD_PASS="0.05")
        end = time.monotonic() + PATIENCE
        while self._saved(environment) == before:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.1)

    @staticmethod
    def _saved(environment: dict[str, str]) -> list[int]:
        return [path.stat().st_mtime_ns for path in Path(environment["ISMN_HOME"]).glob(f"runs/*/{CHECKPOINT}")]

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        workers = {child.environ().get("RANK"): child for child in children}
        for rank in ranks:
            workers[str(rank)].send_signal(number)

    def end(self) -> tuple[int, str]:
        begun = time.monotonic()
        _, err = self.process.communicate(timeout=PATIENCE)
        assert time.monotonic() - begun < 120
        return self.process.returncode, err


@pytest.fixture(scope="module")
def undisturbed(world: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of two processes that were left alone, and what they said."""
    environment = elsewhere(world, tmp_path_factory.mktemp("undisturbed"))
    code, out, err = outcome(environment, *AT)
    assert code == 0 and not out, err
    return trained(environment), err


def test_two_processes_are_one_run_and_speak_once(undisturbed: tuple[Path, str], world: dict[str, str]) -> None:
    run, told = undisturbed
    one(world, *AT)
    alone = trained(world)
    assert run.name == alone.name
    assert told.count("run:     ") == 1 and told.count("clean accuracy: ") == 1
    ours, theirs = (Store(path.parents[1]).run(path.name).record for path in (run, alone))
    assert "trained by 2 processes on cpu" in ours.notes and len(theirs.notes) == 1
    assert ours.figures["adversarial"] == pytest.approx(theirs.figures["adversarial"], rel=1e-3)
    weights, expected = (load_file(path / "weights.safetensors") for path in (run, alone))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_ended_in_every_way_and_started_again(
    undisturbed: tuple[Path, str], world: dict[str, str], tmp_path: Path
) -> None:
    environment = elsewhere(world, tmp_path)

    interrupted = Disturbed(environment)
    interrupted.signal(signal.SIGINT, 0, 1)
    code, err = interrupted.end()
    assert code != 0 and err.count("Interrupted.") == 1 and "was lost" not in err, err
    assert Store(tmp_path).run(trained(environment).name).record.status == "interrupted"

    killed = Disturbed(environment)
    killed.signal(signal.SIGKILL, 0)
    code, err = killed.end()
    assert code != 0 and err.count("Continuing from") == err.count("A process of this training was lost") == 1, err
    assert not (trained(environment) / "weights.safetensors").exists()

    restarted = Disturbed(environment, "--max-restarts", "1")
    restarted.signal(signal.SIGKILL, 1)
    code, err = restarted.end()
    assert code == 0 and err.count("Continuing from") == 2 and err.count("was lost") == 1, err
    weights = [(path / "weights.safetensors").read_bytes() for path in (trained(environment), undisturbed[0])]
    assert weights[0] == weights[1]


def test_what_several_processes_cannot_do(world: dict[str, str], tmp_path: Path) -> None:
    for arguments, words in (
        ((*AT, "--classifier", "fresh"), "The stage 'base' cannot be shared"),
        (("attack", "--method", "pgd"), "torchrun is for training"),
    ):
        code, out, err = outcome(world | {"ISMN_HOME": str(tmp_path)}, *arguments)
        assert code != 0 and not out and err.count("error: ") == 1 and words in err, err
    assert not list(tmp_path.glob("runs/*"))
