"""What must start at once does: no heavy package is imported, and little processor time is spent."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import big_store
import pytest

RUNS = 100
HEAVY = {
    "fsspec", "jinja2", "matplotlib", "pandas", "pyautoattack", "ray", "scipy", "statsmodels", "torch", "torchattacks",
    "torchvision",
}  # fmt: skip
LIGHT = {
    "help": ["--help"],
    "help of a command": ["attack", "--help"],
    "systems": ["list", "systems"],
    "attacks": ["list", "attacks"],
    "runs": ["list", "runs"],
    "report": ["report"],
    "markdown": ["report", "--format", "markdown"],
    "json": ["report", "--format", "json"],
}
COMMAND = """
import resource, sys
from ismn_cli.cli.app import exit_code
code = exit_code(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""
TRIES = 5
BARE = 0.07
"""What `_bare_start` takes where the limits are meant to the letter."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    assert big_store.fill(root, RUNS, 100) == 2 * RUNS
    return root


def spent(store: Path, arguments: Sequence[str], **more: str) -> tuple[float, set[str]]:
    """Return the seconds of processor time that a command took in a process of its own, and what it imported."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env=os.environ | {"ISMN_HOME": str(store), "OMP_NUM_THREADS": "1"} | more,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    seconds, *modules = done.stderr.splitlines()[-1].split()
    return float(seconds), set(modules)


@pytest.mark.parametrize("what", LIGHT)
def test_nothing_heavy_is_imported(store: Path, what: str) -> None:
    assert spent(store, LIGHT[what])[1] & HEAVY == set()


def test_completion_imports_nothing_heavy(store: Path) -> None:
    for words in (["ismn", "attack", "--method", "p"], ["ismn", "report", "--run", "m"]):
        asked = {"_ISMN_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": "3"}
        assert spent(store, [], **asked)[1] & HEAVY == set()


@pytest.mark.parametrize(("what", "most"), [("help", 0.25), ("report", 0.6)])
def test_little_processor_time_is_spent(store: Path, what: str, most: float) -> None:
    """The best of several tries, in turn with what tells how fast the machine is in that minute."""
    tries = [(spent(store, LIGHT[what])[0], _bare_start()) for _ in range(TRIES)]
    seconds, bare = map(min, zip(*tries, strict=True))
    assert seconds < most * max(1.0, bare / BARE)


def _bare_start() -> float:
    """Return the seconds of processor time in which Python imports what any command needs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import typer.main, pydantic"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
