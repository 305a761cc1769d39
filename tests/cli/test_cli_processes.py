"""What needs a process of its own: kills, Ctrl-C, two at once, and a light start."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import small_world
from safetensors.torch import load_file
from signals import hears_ctrl_c

from ismn_cli.core.store import Store
from ismn_cli.stages.train import CHECKPOINT

PATIENCE = 600
"""Seconds after which a process hangs, however busy the machine is."""
TRAIN = ("train", "--system", "ismn", "--seed", "3", "--epochs", "4")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    root = Path(__file__).parents[2]
    return os.environ | {
        "ISMN_HOME": str(tmp_path / "home"),
        "SMALL_WORLD_RELEASED": str(tmp_path / "released"),
        "PYTHONPATH": f"{root}:{root / 'models'}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }


def _start(environment: dict[str, str], *arguments: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, small_world.__file__, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment | more, text=True, preexec_fn=hears_ctrl_c, **pipes)


def _run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = _start(environment, *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out + err


def _await(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def _weights(home: Path) -> bytes:
    (file,) = home.glob("runs/*/weights.safetensors")
    return file.read_bytes()


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_weights(environment: dict[str, str], tmp_path: Path) -> None:
    whole = environment | {"ISMN_HOME": str(tmp_path / "whole")}
    assert _run(whole, *TRAIN)[0] == 0
    home = tmp_path / "home"
    for _ in range(2):
        process = _start(environment, *TRAIN, SMALL_WORLD_SLEEP="0.1")
        seen = [p.stat().st_mtime_ns for p in home.glob(f"runs/*/{CHECKPOINT}")]
        _await(lambda seen=seen: [p.stat().st_mtime_ns for p in home.glob(f"runs/*/{CHECKPOINT}")] != seen, process)
        time.sleep(0.05)
        process.kill()
        process.communicate()
    assert list(home.glob(f"runs/*/{CHECKPOINT}")) and not list(home.glob("runs/*/weights.safetensors"))
    code, told = _run(environment, *TRAIN)
    assert code == 0 and "Continuing from" in told
    assert _weights(home) == _weights(tmp_path / "whole")
    assert not list(home.glob(f"runs/*/{CHECKPOINT}"))


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_command_that_continues(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = (*TRAIN, "--fresh", "config.rate=0.1")
    process = _start(environment, *arguments, SMALL_WORLD_SLEEP="0.2")
    _await(lambda: list((tmp_path / "home").glob(f"runs/*/{CHECKPOINT}")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in err
    (run,) = Store(tmp_path / "home").runs()
    assert run.record.status == "interrupted"
    again = next(shlex.split(line) for line in err.splitlines() if line.strip().startswith("ismn "))
    assert again == ["ismn", *TRAIN, "config.rate=0.1"]
    assert _run(environment, *again[1:])[0] == 0
    assert run.record.id == Store(tmp_path / "home").run("latest").record.id


@pytest.mark.slow
def test_two_processes_on_one_training(environment: dict[str, str], tmp_path: Path) -> None:
    first = _start(environment, *TRAIN, SMALL_WORLD_SLEEP="1")
    _await(lambda: list((tmp_path / "home").glob(f"runs/*/{CHECKPOINT}")), first)
    code, told = _run(environment, *TRAIN)
    first.kill()
    first.communicate()
    assert code == 2 and f"process {first.pid}" in told and "hint:" in told


@pytest.mark.slow
def test_an_attack_killed_half_way_crafts_the_missing_batches_only(environment: dict[str, str], tmp_path: Path) -> None:
    assert _run(environment, "train", "--system", "classifier", "--epochs", "1")[0] == 0
    attack = ("attack", "--method", "pgd", "--eps", "0.1", "--batch-size", "2", "--param", "steps=1000")
    process = _start(environment, *attack)
    _await(lambda: len(list((tmp_path / "home/examples").glob("*/*/batch-*"))) >= 3, process)
    process.kill()
    process.communicate()
    stored = {p: p.stat().st_mtime_ns for p in (tmp_path / "home/examples").glob("*/*/batch-*.safetensors")}
    assert 3 <= len(stored) < 15
    assert _run(environment, *attack)[0] == 0
    assert all(path.stat().st_mtime_ns == when for path, when in stored.items())
    assert len(list((tmp_path / "home/examples").glob("*/*/batch-*.safetensors"))) == 15


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_an_attack_on_two_cores_ends_whole_and_continues_to_the_same_bits(
    number: signal.Signals, code: int, environment: dict[str, str], tmp_path: Path
) -> None:
    assert _run(environment, "train", "--system", "classifier", "--epochs", "1")[0] == 0
    attack = ("attack", "--method", "pgd", "--eps", "0.1", "--batch-size", "16", "--param", "steps=2000")
    home, alone = tmp_path / "home", tmp_path / "alone"
    shutil.copytree(home, alone)
    assert _run(environment | {"ISMN_HOME": str(alone)}, *attack)[0] == 0
    process = _start(environment, *attack, OMP_NUM_THREADS="2")
    parent = psutil.Process(process.pid)
    _await(lambda: len(parent.children()) == 2, process)
    time.sleep(0.2)
    children = parent.children()
    process.send_signal(number)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == code and "Traceback" not in told
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    assert _run(environment | {"OMP_NUM_THREADS": "2"}, *attack)[0] == 0
    assert _examples(home) == _examples(alone)


def _examples(home: Path) -> dict[str, bytes]:
    files = home.glob("examples/*/*/batch-*.safetensors")
    return {str(p.relative_to(home)): load_file(p)["adversarial"].numpy().tobytes() for p in files}


LIGHT = (
    ["--version"],
    ["--help"],
    ["train", "--help"],
    *([command, "--help"] for command in ("audit", "doctor", "ceiling", "claims", "gate")),
    ["list", "attacks"],
    ["list", "systems"],
    ["list", "claims"],
    ["list", "checks"],
    ["list", "runs"],
    ["report"],
)


def test_a_light_start(environment: dict[str, str]) -> None:
    script = (
        "import sys; from ismn_cli.cli.app import exit_code\n"
        f"for arguments in {LIGHT}:\n"
        "    code = exit_code(arguments)\n"
        "    heavy = {'torch', 'torchvision', 'torchattacks'} & set(sys.modules)\n"
        "    if code or heavy: sys.exit(f'{arguments}: exit code {code}, imports {heavy}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_help_takes_little_processor_time(environment: dict[str, str]) -> None:
    script = (
        "import sys, time; from ismn_cli.cli.app import exit_code; exit_code(['--help']);"
        "sys.stderr.write(str(time.process_time()))"
    )
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE
            ).stderr
        )
        for _ in range(3)
    ]
    assert min(times) < 0.4
