"""Several processes train what one process trains: the same losses, step by step, and the same weights.

Three of them, so that batches are dealt out unevenly and the last one has nothing to do at times.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shared_systems
import torch
from shared_systems import LAYERS, SYSTEMS, Outcome
from torch import Tensor

from ismn_cli.core.catalogue import TRAINABLE

PROCESSES = 3
PATIENCE = 300
CLOSE: dict[str, tuple[float, float]] = {
    # An attack's step is a sign, which the last digit of a gradient near zero may turn.
    "trades": (1e-2, 1e-2),
    # Generated images are rounded to bytes and stop where they flip.
    "lad": (2e-2, 1e-1),
    "lad, compat": (2e-2, 1e-1),
}
"""How far apart losses and weights may be, as a share of themselves and of the largest of a tensor."""
DEFAULT = (1e-4, 5e-3)
FREE = re.compile(r"defence\.autoencoders?(\.\d)?\.0\.(0\.bias|1\.running_mean)")
"""What batch normalisation takes out again has no gradient but rounding, which Adam makes steps of full length of."""


def environments(processes: int) -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    shared = {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{root}:{root / 'models'}",
    }
    return [os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what several processes came to, by system."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, shared_systems.__file__, str(folder), *SYSTEMS]
    started = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for environment in environments(PROCESSES)
    ]
    told = [process.communicate(timeout=PATIENCE)[1] for process in started]
    assert all(process.returncode == 0 for process in started), told
    return folder


@pytest.mark.parametrize("name", SYSTEMS)
def test_several_processes_train_what_one_does(name: str, together: Path, tmp_path: Path) -> None:
    alone = shared_systems.train(name, tmp_path / "checkpoint.pt")
    shared = Outcome(**torch.load(together / f"{name}.pt"))
    losses, weights = CLOSE.get(name, DEFAULT)
    assert [told[:3] for told in shared.told] == [told[:3] for told in alone.told]
    for ours, theirs in zip(shared.told, alone.told, strict=True):
        first = ours[:2] == alone.told[0][:2]
        assert ours[3] == pytest.approx(theirs[3], rel=1e-5 if first else losses, abs=1e-6), ours[:3]
    for part, tensor in alone.weights.items():
        if not FREE.fullmatch(part):
            _assert_close(shared.weights[part], tensor, weights, part)


def _assert_close(one: Tensor, other: Tensor, share: float, name: str) -> None:
    if not other.is_floating_point():
        assert torch.equal(one, other), name
        return
    finite = torch.isfinite(other)
    scale = other[finite].abs().max().item() if finite.any() else 1.0
    torch.testing.assert_close(one, other, rtol=0, atol=share * scale, msg=lambda told: f"{name}: {told}")


def test_every_system_that_is_trained_is_here() -> None:
    assert {name.split(",")[0] for name in SYSTEMS} == set(TRAINABLE)


def test_nets_that_several_processes_would_train_otherwise_are_found(together: Path) -> None:
    expected = {name: shareable for name, (shareable, _) in LAYERS.items()}
    for rank in range(PROCESSES):
        assert json.loads((together / f"verdicts-{rank}.json").read_text()) == expected


def test_a_system_is_saved_as_one_process_saves_it(together: Path, tmp_path: Path) -> None:
    def kinds(content: Any) -> Any:
        if isinstance(content, dict):
            return {name: kinds(value) for name, value in content.items()}
        return (content.dtype, content.shape) if isinstance(content, Tensor) else type(content)

    shared_systems.train("ismn", tmp_path / "checkpoint.pt")
    alone = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kinds(torch.load(together / "ismn.checkpoint", weights_only=True)) == kinds(alone)
