"""What is freed is kept: the system is not asked for the same pages again and again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from ismn_cli.core.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Return the page faults of ten blocks of 64 MiB, each freed before the next is taken."""
    command = [sys.executable, "-c", COUNT, how]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_taken_again() -> None:
    assert 5 * faults("kept") < faults("not kept")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_the_environment_says_stands() -> None:
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > 5 * faults("kept")
