#!/usr/bin/env python3
"""`sbatch --parsable` without Slurm: a job runs at once, an array's elements two at a time in an order drawn at random.

FAKE_SBATCH is a folder: jobs are written there, and their output. Where FAKE_SBATCH_KILL is a folder too, the first
element is killed, with all its children, once a file has come up in there, and then requeued.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(os.environ["FAKE_SBATCH"])
KILL = os.environ.get("FAKE_SBATCH_KILL", "")


def main() -> None:
    options = dict(word.partition("=")[::2] for word in sys.argv[1:])
    unknown = set(options) - {"--parsable", "--array", "--chdir", "--dependency", "--kill-on-invalid-dep"}
    if unknown:
        sys.exit(f"sbatch: unrecognized option '{unknown.pop()}'")
    number = len(list(HOME.glob("*.job"))) + 1
    if "--dependency" in options and not (HOME / options["--dependency"].removeprefix("afterok:")).is_file():
        sys.exit("sbatch: error: Batch job submission failed: Job dependency problem")
    job = HOME / f"{number}.job"
    job.write_bytes(sys.stdin.buffer.read())
    elements = ["0"]
    if "--array" in options:
        first, _, last = options["--array"].partition("-")
        elements = [str(i) for i in range(int(first), int(last) + 1)]
        random.shuffle(elements)
    with ThreadPoolExecutor(2) as nodes:
        codes = list(nodes.map(lambda element: run(job, element, options["--chdir"]), elements))
    if not any(codes):
        (HOME / str(number)).touch()  # afterok
    sys.stdout.write(f"{number};cluster\n")


def run(job: Path, element: str, folder: str) -> int:
    killed = KILL and element == "1" and not (HOME / "requeued").exists()
    with (HOME / f"{job.stem}_{element}.out").open("ab") as out:
        process = start(job, element, folder, out)
        while killed and process.poll() is None:
            if any(path.is_file() for path in Path(KILL).rglob("*")):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                (HOME / "requeued").touch()
                process, killed = start(job, element, folder, out), False
            time.sleep(0.01)
        return process.wait()


def start(job: Path, element: str, folder: str, out: object) -> subprocess.Popen[bytes]:
    environment = os.environ | {"SLURM_JOB_ID": job.stem, "SLURM_ARRAY_TASK_ID": element}
    return subprocess.Popen(
        ["bash", job], cwd=folder, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


main()
