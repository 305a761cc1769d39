"""The script that hands a matrix to Slurm: an array of shards, and a job after them that puts them together."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ismn_cli.core.slurm import MOST, SAFETY, Ask, Jobs
from ismn_cli.reporting.forecast_table import duration

_MARK = "# Written by `ismn plan --slurm`; sha256 of the lines below: "
_SHELL = "#!/bin/bash"
_AFTER = '--dependency="afterok:${shards%%;*}" --kill-on-invalid-dep=yes'
"""For a cluster of several, sbatch says ID;CLUSTER. Where a shard fails, the job that waits for it goes."""


@dataclass(frozen=True)
class Setting:
    """Where and how the jobs run."""

    folder: Path
    """The folder of the script, where paths of the recipe begin; the jobs' output is written there."""
    environment: Mapping[str, str]
    """Variables that every job sets."""
    threads: int
    gpu: bool


def slurm_script(
    name: str, jobs: Jobs, setting: Setting, run: Sequence[str], report: Sequence[str]
) -> bytes:
    """Return the script for the recipe called ``name``.

    ``run``: the words of the command that carries out the recipe; ``report``: of the one that reports it.
    """
    lines = (*_remarks(name, jobs), *_submission(name, jobs, setting, run, report))
    return _signed(os.fsencode("\n".join(lines)))


def unchanged(content: bytes) -> bool:
    """Whether ``content`` is a script of `slurm_script`, as it was written."""
    return content == _signed(content.split(b"\n", 2)[-1])


def _signed(body: bytes) -> bytes:
    return f"{_SHELL}\n{_MARK}{hashlib.sha256(body).hexdigest()}\n".encode() + body


def _remarks(name: str, jobs: Jobs) -> list[str]:
    return [
        f"#SBATCH --job-name=ismn-{name}-submit",
        "#SBATCH --time=00:05:00",
        "#SBATCH --mem=100M",
        "#",
        f"# {jobs.shards} shards of {name}, each of {duration(jobs.forecast)} on the machine where this was planned,",
        "# and a job after them that puts them together.",
        f"# Time and memory are {SAFETY:g} times what is predicted. Run again, it leaves alone what is done.",
        "# From the environment: SBATCH_PARTITION, SBATCH_ACCOUNT; SBATCH_TIMELIMIT goes before the times below.",
        *([f"# Many clusters allow arrays of at most {MOST} elements."] if jobs.shards > MOST else []),
        "set -euo pipefail",
        "",
    ]


def _submission(name: str, jobs: Jobs, setting: Setting, run: Sequence[str], report: Sequence[str]) -> list[str]:
    shard = [f'exec {shlex.join(run)} --shard "$SLURM_ARRAY_TASK_ID"/{jobs.shards}']
    after = [shlex.join(run), shlex.join(report)]
    return [
        f"folder={shlex.quote(str(setting.folder))}",
        *_job("shards", f"--array=1-{jobs.shards}", _batch(f"{name}-shard", jobs.shard, setting, shard)),
        *_job("report", _AFTER, _batch(f"{name}-report", jobs.report, setting, after)),
        'echo "Submitted: shards as job ${shards%%;*}, the report as job ${report%%;*}."',
        "",
    ]


def _job(variable: str, options: str, batch: Sequence[str]) -> list[str]:
    """Return the lines that submit a batch script and keep its job's id."""
    end = variable.upper()
    # A path may have any line in it; and within $( ) bash takes a line that only begins so for the end.
    while any(line.startswith(end) for line in "\n".join(batch).split("\n")):
        end += "_"
    return [f"{variable}=$(sbatch --parsable --chdir=\"$folder\" {options} <<'{end}'", *batch, end, ")", ""]


def _batch(name: str, ask: Ask, setting: Setting, commands: Sequence[str]) -> list[str]:
    return [
        _SHELL,
        f"#SBATCH --job-name=ismn-{name}",
        f"#SBATCH --time={_clock(ask.seconds)}",
        f"#SBATCH --mem={math.ceil(ask.memory / 2**20)}M",
        f"#SBATCH --ntasks=1 --cpus-per-task={setting.threads}",
        *(["#SBATCH --gres=gpu:1"] if setting.gpu else []),
        "#SBATCH --requeue --open-mode=append",
        "set -euo pipefail",
        *(f"export {key}={shlex.quote(value)}" for key, value in setting.environment.items()),
        *commands,
    ]


def _clock(seconds: float) -> str:
    """Return a time as Slurm reads it, whole minutes: days-hours:minutes:seconds."""
    minutes = math.ceil(seconds / 60)
    days, left = divmod(minutes, 24 * 60)
    clock = f"{left // 60:02d}:{left % 60:02d}:00"
    return f"{days}-{clock}" if days else clock
