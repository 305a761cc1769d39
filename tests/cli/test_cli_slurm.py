"""`ismn plan --slurm` writes a script; where its jobs have run, the results are those of one `ismn run`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_world

from ismn_cli.cli import slurm

RECIPE = """
task: matrix
name: mine
defence: [none, median]
knowledge: gray
attack: {method: [fgsm, pgd], eps: [0.1], params: {pgd: {steps: 20}}}
draws: 2
batch_size: 4
"""
TRAINING = "training: {base: {system: classifier, epochs: 1}}\n"
HOSTILE = "it's a \"$(touch pwned)\" `touch pwned`\n%j\nSHARDS"
"""The name of a folder; its last line is that which ends a batch script."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a difficult name to work in, with a recipe."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    (folder / "mine.yaml").write_text(RECIPE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cluster(folder: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster without Slurm, whose nodes are in the small world; return the folder of its jobs."""
    tools, jobs = folder.parent / "bin", folder.parent / "jobs"
    for place in (tools, jobs):
        place.mkdir()
    root = Path(__file__).parents[2]
    variables = {"SMALL_WORLD_RELEASED": small, "PYTHONPATH": f"{root}:{root / 'models'}", "SMALL_WORLD_PASS": 0.001}
    exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
    node = f'#!/bin/sh\n{exports} exec {shlex.join([sys.executable, small_world.__file__])} "$@"\n'
    for name, text in (("sbatch", Path(__file__).with_name("fake_sbatch.py").read_text()), ("ismn", node)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SBATCH", str(jobs))
    monkeypatch.setattr(slurm, "_program", lambda: str(tools / "ismn"))
    return jobs


def _submit(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", script], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_jobs_in_any_order_one_of_them_killed_make_the_run(
    ismn, cluster: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    store = folder / "results"
    store.mkdir()
    for name in ("results", "whole"):
        (folder / name).mkdir(exist_ok=True)
        shutil.copytree(os.environ["ISMN_HOME"], folder / name, dirs_exist_ok=True)
    planned = ismn("plan", "mine.yaml", "--limit", "48", "--slurm", "--shards", "3", "--store", "results")
    assert planned.code == 0, planned.err
    assert "next:   bash slurm-mine.sh" in planned.err
    monkeypatch.setenv("FAKE_SBATCH_KILL", str(store / "examples"))
    done = _submit("slurm-mine.sh")
    told = "".join(path.read_text() for path in sorted(cluster.glob("*.out")))
    assert done.returncode == 0, done.stderr + told
    assert (cluster / "requeued").exists() and not list(folder.glob("pwned"))
    assert done.stdout == "Submitted: shards as job 1, the report as job 2.\n"
    whole = ismn("run", "mine.yaml", "--limit", "48", "--store", "whole")
    assert whole.code == 0, whole.err
    (one,), (other,) = (list((folder / name).glob("runs/mine-*/report.csv")) for name in ("results", "whole"))
    assert one.read_bytes() == other.read_bytes() and one.parent.name == other.parent.name
    assert "6 of 6 cells were stored already" in told
    assert (folder / "slurm-mine.md").read_text() == ismn("report", "--format", "markdown", "--store", "results").out
    again = ismn("run", "mine.yaml", "--limit", "48", "--store", "results", "--shard", "2/3")
    assert again.code == 0 and "6 cells on its images, 6 of them stored already" in again.err


def test_a_script_of_ones_own_stays(ismn, folder: Path, small: Path) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    plan = ("plan", "mine.yaml", "--limit", "8", "defence=none", "--slurm")
    assert ismn(*plan).code == 0
    script = folder / "slurm-mine.sh"
    assert ismn(*plan, "--shards", "2").code == 0 and b"--array=1-2" in script.read_bytes()
    mine = script.read_bytes().replace(b"--cpus-per-task=1", b"--cpus-per-task=4")
    script.write_bytes(mine)
    refused = ismn(*plan)
    assert refused.code == 2 and "Move it away" in refused.err and script.read_bytes() == mine


def test_what_cannot_be_planned_is_refused(ismn, folder: Path, small: Path) -> None:
    (folder / "mine.yaml").write_text(RECIPE + TRAINING)
    (folder / "train.yaml").write_text("task: train\nsystem: classifier")
    for arguments, told in (
        (("mine.yaml", "--shards", "2"), "Add: --slurm"),
        (("train.yaml", "--slurm"), "is a training"),
        (("mine.yaml", "--slurm"), "--trainings"),
        (("mine.yaml", "training={}", "--slurm"), "cannot be timed"),
    ):
        ended = ismn("plan", *arguments)
        assert ended.code == 2 and told in ended.err, (arguments, ended.err)
    assert ismn("run", "mine.yaml", "--trainings").code == 0
    for shards in ("0", "16", "-1"):
        ended = ismn("plan", "mine.yaml", "--slurm", "--shards", shards)
        assert ended.code == 2 and "15 batches" in ended.err, ended.err
    ended = ismn("plan", "mine.yaml", "--slurm", "--budget", "1h")
    assert ended.code == 2 and "Give --limit" in ended.err
    assert not (folder / "slurm-mine.sh").exists()


def test_a_failed_shard_keeps_the_report_from_starting(ismn, cluster: Path, folder: Path) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    plan = ("plan", "mine.yaml", "--limit", "8", "defence=none", "--slurm", "--shards", "2")
    assert ismn(*plan).code == 0
    (folder / "mine.yaml").unlink()
    done = _submit("slurm-mine.sh")
    assert done.returncode != 0 and "dependency" in done.stderr
    assert "There is no recipe file" in (cluster / "1_2.out").read_text()


def test_where_things_are_is_written_down(ismn, folder: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    (folder / "data").mkdir()
    monkeypatch.setenv("ISMN_DATA_DIR", "data")
    plan = ("plan", "mine.yaml", "--limit", "8", "defence=none", "--slurm")
    assert ismn(*plan, "--data-dir", "data").code == 0
    text = (folder / "slurm-mine.sh").read_text()
    data, home = shlex.quote(str(folder / "data")), shlex.quote(os.environ["ISMN_HOME"])
    for written in (f"--data-dir {data}", f"ISMN_DATA_DIR={data}", f"ISMN_HOME={home}", f"--store {home}"):
        assert written in text
    assert text.count(shlex.quote(str(folder / "mine.yaml"))) == 2
    assert "search=" in text and "gpu" not in text
