"""`ismn run --shard I/N` and `--trainings`: parts of a recipe, by processes that know nothing of each other."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_world

from ismn_cli.core.store import Store

RECIPE = """
task: matrix
name: mine
training: {base: {system: classifier, epochs: 1}, own: {system: ismn, classifier: base, epochs: 1}}
defence: [none, ismn]
knowledge: [gray, white]
attack: {method: [fgsm, pgd], eps: [0.1], params: {pgd: {steps: 3}}}
batch_size: 8
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return str(path)


def _report(home: Path) -> bytes:
    (report,) = home.glob("runs/mine-*/report.csv")
    return report.read_bytes()


def test_trainings_then_shards_then_the_whole(ismn, recipe: str, store: Store, tmp_path: Path) -> None:
    early = ismn("run", recipe, "--shard", "1/3")
    assert early.code == 2 and "Training 'base'" in early.err and "--trainings" in early.err
    trained = ismn("run", recipe, "--trainings")
    assert trained.code == 0 and trained.out == ""
    runs = [run.record for run in store.runs()]
    assert {run.kind for run in runs} == {"train"} and len(runs) == 2
    shutil.copytree(store.root, tmp_path / "whole")
    for shard in ("3/3", "1/3", "2/3"):
        ended = ismn("run", recipe, "--shard", shard)
        assert ended.code == 0 and ended.out == "", ended.err
        assert f"shard {shard}: 10 cells on its images, 0 of them stored already" in ended.err
        assert f"store: {store.root}" in ended.err
    assert len(store.runs()) == 2
    assert "10 cells on its images, 10 of them stored" in ismn("run", recipe, "--shard", "1/3").err
    last = ismn("run", recipe)
    assert last.code == 0 and "10 of 10 cells were stored already" in last.err
    assert ismn("run", recipe, "--store", str(tmp_path / "whole")).code == 0
    assert _report(store.root) == _report(tmp_path / "whole")


def test_shards_meet_in_object_storage(ismn, recipe: str, store: Store) -> None:
    """Trainings are in the home folder then."""
    pytest.importorskip("upath")
    bucket = ("--limit", "24", "--store", f"memory://{store.root.parent.name}/results")
    for options in (("--trainings",), ("--shard", "2/2"), ("--shard", "1/2"), ()):
        ended = ismn("run", recipe, *options, *bucket)
        assert ended.code == 0, ended.err
    assert "10 of 10 cells were stored already" in ended.err
    assert ismn("run", recipe, "--limit", "24").code == 0
    (here,) = store.root.glob("runs/mine-*/report.csv")
    (there,) = Store.open(bucket[-1]).root.glob(f"runs/{here.parent.name}/report.csv")
    assert here.read_bytes() == there.read_bytes()


def test_more_shards_than_batches_are_idle(ismn, recipe: str) -> None:
    assert ismn("run", recipe, "--trainings", "--limit", "16").code == 0
    ended = ismn("run", recipe, "--shard", "1/40", "--limit", "16")
    assert ended.code == 0 and "there are only 2 batches" in ended.err


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1", "1/0", "-1/4", "1/4/2", "1.0/4", "", "१/४", "1/9999999999"])
def test_what_is_no_shard_is_refused(ismn, recipe: str, shard: str) -> None:
    ended = ismn("run", recipe, f"--shard={shard}")
    assert ended.code == 2 and "for example: --shard 1/4" in ended.err


@pytest.mark.parametrize(
    "options",
    [
        ("--shard", "1/4", "--plan"),
        ("--shard", "1/4", "--track", "tensorboard"),
        ("--shard", "1/4", "--trainings"),
        ("--shard", "1/4", "--engine", "ray"),
        ("--trainings", "--plan"),
        ("--trainings", "--engine", "ray"),
    ],
)
def test_what_would_be_idle_is_refused(ismn, recipe: str, options: tuple[str, ...]) -> None:
    ended = ismn("run", recipe, *options)
    assert ended.code == 2 and "do not go together" in ended.err


def test_a_training_has_no_shards(ismn, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("task: train\nsystem: classifier")
    for options in (("--shard", "1/4"), ("--trainings",)):
        ended = ismn("run", str(tmp_path / "train.yaml"), *options)
        assert ended.code == 2 and "is a training" in ended.err and "Without it: ismn run" in ended.err
    (tmp_path / "plain.yaml").write_text("task: matrix")
    ended = ismn("run", str(tmp_path / "plain.yaml"), "--trainings")
    assert ended.code == 2 and "no trainings of its own" in ended.err


@pytest.mark.slow
def test_ctrl_c_and_kill_leave_a_shard_that_continues(ismn, recipe: str, store: Store, small: Path) -> None:
    assert ismn("run", recipe, "--trainings").code == 0
    root = Path(__file__).parents[2]
    environment = os.environ | {"SMALL_WORLD_RELEASED": str(small), "PYTHONPATH": f"{root}:{root / 'models'}"}
    arguments = ["run", recipe, "attack.params.pgd.steps=60", "--shard", "2/2"]
    for number, kill in enumerate((signal.SIGKILL, signal.SIGINT)):
        process = subprocess.Popen(
            [sys.executable, small_world.__file__, *arguments],
            env=environment | {"SMALL_WORLD_PASS": "0.003"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        while len(list(store.root.glob("examples/*/*/batch-*"))) < 5 + 3 * number:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(kill)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    again = next(shlex.split(line) for line in err.splitlines() if line.strip().startswith("ismn "))
    assert again == ["ismn", *arguments]
    stored = {path: path.stat().st_mtime_ns for path in store.root.glob("examples/*/*/batch-*")}
    ended = ismn(*arguments)
    assert ended.code == 0 and all(path.stat().st_mtime_ns == when for path, when in stored.items())
    assert {path.name for path in store.root.glob("examples/*/*/batch-*")} == {
        f"batch-{index:05d}.safetensors" for index in (4, 5, 6, 7)
    }
