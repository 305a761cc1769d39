"""A process with a token in its home folder reaches the cluster that it starts, whoever imported Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
ONE_TASK = """
from ismn_cli.stages.ray_door import connect, the_ray
connect(the_ray(), None)
ray = the_ray()
print(ray.get(ray.remote(lambda: 6 * 7).remote()))
ray.shutdown()
"""


@pytest.mark.parametrize("first", ["", "import ray"])
def test_a_token_in_the_home_folder(tmp_path: Path, first: str) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", f"{first}\n{ONE_TASK}"],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout == "42\n", ended.stderr
