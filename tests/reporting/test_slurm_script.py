"""The script for Slurm: as it is kept in tests/golden, and with words of any kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.core.slurm import Ask, Jobs
from ismn_cli.reporting.slurm_script import Setting, slurm_script, unchanged

GOLDEN = Path(__file__).parents[1] / "golden/slurm.sh"
JOBS = Jobs(24, 3312.0, Ask(2 * 3612, 9 * 2**30), Ask(26 * 3600 + 1, 2**31 - 1))
SETTING = Setting(Path("/srv/it's mine"), {"OMP_NUM_THREADS": "2", "ISMN_HOME": "/home/me/.ismn"}, 2, gpu=True)
RUN = ["/opt/ismn/bin/ismn", "run", "/srv/it's mine/mine.yaml", "defence=[none, ismn]", "--store", "s3://bucket/a b"]
REPORT = ["/opt/ismn/bin/ismn", "report", "--format", "markdown", "-o", "slurm-mine.md"]
ECHO = ["/usr/bin/printf", r"%s\0"]
SBATCH = """#!/bin/sh
printf '%s\\n' "$@" >&2
cat >"$JOBS/$(ls "$JOBS" | wc -l)"
echo 17
"""
WORDS = st.lists(
    st.one_of(
        st.binary(max_size=20).map(lambda content: os.fsdecode(content.replace(b"\0", b""))),
        st.sampled_from(["SHARDS", "\nSHARDS\n", "\nSHARDS_", "\nREPORT)", "$(id)", "`id`", "${shards}", "'", "\\\n"]),
        st.text(st.sampled_from("S'\"$`\\\n) #!%&;|<>*?~"), max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def test_the_script_is_as_it_was() -> None:
    assert slurm_script("mine", JOBS, SETTING, RUN, REPORT) == GOLDEN.read_bytes()


def test_bash_and_shellcheck_have_nothing_against_it() -> None:
    assert subprocess.run(["bash", "-n", GOLDEN], check=False).returncode == 0
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("no shellcheck here: apt-get install shellcheck")
    told = subprocess.run([checker, GOLDEN], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_without_a_gpu_none_is_asked_for() -> None:
    plain = slurm_script("mine", JOBS, replace(SETTING, gpu=False), RUN, REPORT)
    assert GOLDEN.read_bytes().count(b"--gres=gpu:1") == 2 and b"--gres" not in plain


@settings(max_examples=40, deadline=None)
@given(WORDS, WORDS)
def test_every_word_arrives_as_it_is(run: list[str], report: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        odd = Path(folder) / ("it's \n" + run[0].replace("/", "")[:60])
        odd.mkdir()
        setting = replace(SETTING, folder=odd, environment={"WORD": report[0]})
        batches = _submitted(slurm_script("mine", JOBS, setting, ECHO + run, ECHO + report), Path(folder), odd)
        shard, after = (_output(batch) for batch in batches)
    assert shard == [*run, "--shard", "7/24"]
    assert after == [*run, *report]


def _submitted(script: bytes, place: Path, odd: Path) -> list[Path]:
    """Return the batch scripts that a script submits; sbatch is told where, and after which job."""
    (place / "sbatch").write_text(SBATCH)
    (place / "sbatch").chmod(0o755)
    (place / "jobs").mkdir()
    (place / "script").write_bytes(script)
    environment = os.environ | {"PATH": f"{place}:{os.environ['PATH']}", "JOBS": str(place / "jobs")}
    done = subprocess.run(["bash", place / "script"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"--chdir=" + os.fsencode(odd) + b"\n") == 2
    assert b"--array=1-24\n" in done.stderr and b"--dependency=afterok:17\n" in done.stderr
    return [place / "jobs/0", place / "jobs/1"]


def _output(batch: Path) -> list[str]:
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "7"}
    done = subprocess.run(["bash", batch], env=environment, capture_output=True, check=True)
    return os.fsdecode(done.stdout).split("\0")[:-1]


def test_what_was_changed_is_known() -> None:
    script = slurm_script("mine", JOBS, SETTING, RUN, REPORT)
    assert unchanged(script)
    for other in (b"", b"\n\n", script[:-1], script + b"\n", script.replace(b"M\n", b"G\n"), b"#!/bin/bash\necho\n"):
        assert not unchanged(other)
