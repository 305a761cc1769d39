"""The command line's threads sleep where they wait, unless the user says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

# libgomp tells its settings when torch loads it, which `ismn list runs` does not by itself.
COMMAND = """
import atexit, sys
from ismn_cli.cli.app import main
atexit.register(lambda: __import__("torch"))
sys.argv = ["ismn", "list", "runs"]
main()
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="another OpenMP")
@pytest.mark.parametrize(("said", "told"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_is_told(tmp_path: Path, said: dict[str, str], told: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = clean | {"OMP_DISPLAY_ENV": "TRUE", "ISMN_HOME": str(tmp_path)} | said
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert f"OMP_WAIT_POLICY = '{told}'" in done.stderr
