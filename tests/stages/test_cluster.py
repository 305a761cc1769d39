"""A matrix on the workers of a Ray cluster is the matrix, whatever becomes of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ismn_cli.core.errors import CutError, UsageError
from ismn_cli.core.parts import rows_of
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CLOCKS, CellResult, Outcome
from ismn_cli.core.store import Store
from ismn_cli.stages import dispatch
from ismn_cli.stages.cluster import Cluster, _Matrix, cluster
from ismn_cli.stages.engines import CarryOut, locally
from ismn_cli.stages.matrix import REPORT, Finished, run_plan
from ismn_cli.stages.plan import Matrix, plan_matrix

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
CODE = """
import os
import signal

import torch
from ismn_models.pipeline import Defence

from helper import slope

IN_A_WORKER = "ISMN_TEST_HERE" not in os.environ
MARK = 17 / 255


def marked(x):
    return bool((x[:, :, 0, 0] == MARK).all(1).any())


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(192, 3)
        self.out.weight.data = torch.eye(3).repeat_interleave(64, 1) + 0.01 * self.out.weight.data
        self.scale = lambda x: x / 8  # which pickle alone cannot send

    def forward(self, x):
        return self.scale(self.out(x.flatten(1)))


class Grey(Defence):
    policy = "reform"

    def reform(self, x):
        return 0.5 * x + 0.5 * x.mean(1, keepdim=True)


class Deadly(Grey):
    def reform(self, x):
        if IN_A_WORKER and marked(x):
            os._exit(1)
        return super().reform(x)


def attack(model, x, y, eps, steps: int = 2):
    for _ in range(steps):
        x = (x + eps / steps * slope(model, x, y).sign()).clamp(0, 1)
    return x


def deadly(model, x, y, eps):
    if IN_A_WORKER and marked(x):
        os.kill(os.getpid(), signal.SIGSEGV)
    return attack(model, x, y, eps)


def late(model, x, y, eps):
    return attack(model, x, y, eps, 3)


def wrong(model, x, y, eps):
    from ismn_cli.core.errors import UsageError
    raise UsageError("Memory ran out.", "Give less.") if IN_A_WORKER else ValueError
"""
HELPER = """
import torch


def slope(model, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), x)[0]
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a cluster of two workers."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
    yield nodes.address
    nodes.shutdown()


@pytest.fixture
def two(address: str) -> Iterator[Cluster]:
    with cluster(address, "cpu") as found:
        yield found


def _matrix(store: Store, **changes: Any) -> Matrix:
    mapping: dict[str, Any] = {
        "name": "matrix",
        "defence": ["none", "ddsa", "magnet", "median"],
        "knowledge": ["gray", "black", "adaptive"],
        "attack": {
            "method": ["fgsm", "pgd"],
            "method_at": {"black": ["square"]},
            "eps": [0.05, 0.2],
            "params": {"pgd": {"steps": 3}, "square": {"n_queries": 5}},
        },
        "survivors": True,
        "draws": 3,
        "batch_size": 7,
    }
    return plan_matrix(MatrixRecipe.model_validate(mapping | changes), store, None, "cpu")


def _run(matrix: Matrix, store: Store, carry_out: CarryOut) -> Finished:
    return run_plan(matrix, store, "run", lambda _: None, carry_out=carry_out)


def _content(result: CellResult) -> dict[str, Any]:
    return result.model_dump(mode="json", exclude=set(CLOCKS))


@pytest.fixture
def other(store: Store, defences: None, tmp_path: Path) -> Store:
    """Return a second store with the same trainings."""
    second = Store.open(tmp_path / "second")
    (second.root / "runs").mkdir()
    for run in (store.root / "runs").iterdir():
        (second.root / "runs" / run.name).symlink_to(run)
    return second


def test_two_workers_give_the_same_bytes(two: Cluster, store: Store, other: Store) -> None:
    here = _run(_matrix(store), store, locally)
    there = _run(_matrix(other), other, two.carry_out)
    assert [_content(r) for r in there.results] == [_content(r) for r in here.results]
    assert (there.run.folder / REPORT).read_bytes() == (here.run.folder / REPORT).read_bytes()
    examples = sorted(path.relative_to(store.root) for path in store.root.glob("examples/*/*/*"))
    assert examples == sorted(path.relative_to(other.root) for path in other.root.glob("examples/*/*/*"))


@pytest.fixture
def own(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a model, defences and attacks; some end the process on the images that are marked."""
    monkeypatch.setenv("ISMN_TEST_HERE", "1")
    (own_folder / "mine.py").write_text(CODE)
    (own_folder / "helper.py").write_text(HELPER)
    return own_folder


def _own_matrix(store: Store, **changes: Any) -> Matrix:
    """Return a matrix of the user's own code on images of which the fourth batch is marked."""
    mapping: dict[str, Any] = {
        "defence": ["none", "mine.py:Grey"],
        "knowledge": ["white"],
        "attack": {"method": ["mine.py:attack", "mine.py:deadly", "mine.py:late"], "eps": 0.104},
        "model": {"reference": "mine.py:Net"},
    }
    matrix = _matrix(store, **(mapping | changes))
    pixels = matrix.images.pixels.clone()
    pixels[3 * 7 : 4 * 7, :, 0, 0] = 17
    return replace(matrix, images=replace(matrix.images, pixels=pixels))


def _columns(result: CellResult, rows: slice) -> dict[str, Any]:
    return _content(rows_of(result, rows).model_copy(update={"notes": ()}))


def test_code_of_the_users_own_and_a_batch_that_kills(
    two: Cluster,
    store: Store,
    other: Store,
    own: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "DEATHS", 2)
    here = _run(_own_matrix(store), store, locally)
    there = _run(_own_matrix(other), other, two.carry_out)
    poisoned, broken = slice(21, 28), dict[str, set[int]]()
    for local, far in zip(here.results, there.results, strict=True):
        method = far.cell.attack.method if far.cell.attack else "clean"
        if method in ("clean", "mine.py:attack"):
            assert _content(far) == _content(local)
            broken[far.cell.defence.name] = _rows(far, Outcome.BROKEN)
            continue
        for rows in (slice(21), slice(28, None)):
            assert _columns(far, rows) == _columns(local, rows)
        # What an attack before has broken stays broken, whatever comes after.
        assert broken[far.cell.defence.name] <= _rows(far, Outcome.BROKEN)
        if method == "mine.py:deadly":
            assert not {Outcome.SURVIVED, Outcome.DETECTED} & set(far.outcomes()[poisoned])
            assert Outcome.UNKNOWN in far.outcomes()[poisoned]
            assert any("7 samples ended each time" in note for note in far.notes)
    assert any(rows & set(range(21, 28)) for rows in broken.values())
    assert caplog.text.count("ended every worker that tried it") == 2
    assert _run(_own_matrix(other), other, two.carry_out).stored == len(there.results)


def _rows(result: CellResult, outcome: Outcome) -> set[int]:
    return {row for row, found in enumerate(result.outcomes()) if found is outcome}


def test_a_system_that_kills_without_attack(
    two: Cluster, store: Store, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "DEATHS", 2)
    changes = {"defence": ["none", "mine.py:Deadly", "mine.py:Grey"], "knowledge": ["gray"]}
    matrix = _own_matrix(store, **changes, attack={"method": "mine.py:attack", "eps": 0.1})
    with pytest.raises(UsageError, match="Deadly ended every process"):
        _run(matrix, store, two.carry_out)
    stored = {cell.defence.name: store.cell(cell.key()) for _, cell in matrix.cells() if cell.attack}
    assert [name for name, result in stored.items() if result is None] == ["mine.py:Deadly"]


def test_what_a_worker_raises_is_raised_here(two: Cluster, store: Store, own: Path) -> None:
    matrix = _own_matrix(store, defence=["none"], attack={"method": "mine.py:wrong", "eps": 0.1})
    with pytest.raises(UsageError, match="Memory ran out") as caught:
        _run(matrix, store, two.carry_out)
    assert caught.value.hint == "Give less."
    matrix = _own_matrix(store, attack={"method": "pgd", "eps": 0.1})
    (own / "mine.py").unlink()
    with pytest.raises(UsageError, match="is missing on"):
        _run(matrix, store, two.carry_out)


def _quick(store: Store) -> Matrix:
    return _matrix(store, knowledge=["gray"], attack={"method": "fgsm", "eps": [0.05, 0.1]})


def test_a_full_disk_keeps_what_is_done(
    two: Cluster, store: Store, defences: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, room = Store.put_cell, 3

    def full(self: Store, result: CellResult) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise UsageError("There is no space left on the device.", "Free some space.")
        put(self, result)

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="no space left"):
        patch.setattr(Store, "put_cell", full)
        _run(_quick(store), store, two.carry_out)
    asked, real = set[str](), _Matrix._order
    done = {cell.key() for _, cell in _quick(store).cells() if store.cell(cell.key())}
    monkeypatch.setattr(_Matrix, "_order", lambda self, unit: asked.update(unit.keys) or real(self, unit))
    finished = _run(_quick(store), store, two.carry_out)
    assert finished.stored == len(done) == 3
    assert asked == {result.cell.key() for result in finished.results} - done


def test_workers_killed_at_random_moments(two: Cluster, store: Store, other: Store) -> None:
    here = _run(_matrix(store), store, locally)
    over, kills = threading.Event(), list[int]()

    def kill() -> None:
        rng = random.Random(os.urandom(8))
        while len(kills) < 4 and not over.wait(rng.random()):
            busy = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::work")]
            if busy:
                rng.choice(busy).send_signal(signal.SIGKILL)
                kills.append(1)

    thread = threading.Thread(target=kill)
    thread.start()
    there = _run(_matrix(other), other, two.carry_out)
    over.set()
    thread.join()
    assert kills
    assert [_content(r) for r in there.results] == [_content(r) for r in here.results]


def test_the_head_dies(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[float] = []
    with pytest.raises(CutError, match="is gone"), cluster(None, "cpu") as here:
        put = Store.put_cell

        def then_kill(self: Store, result: CellResult) -> None:
            put(self, result)
            if not killed:
                killed.append(time.monotonic())
                heads = (p for p in psutil.Process().children() if p.name() == "gcs_server")
                max(heads, key=psutil.Process.create_time).kill()

        monkeypatch.setattr(Store, "put_cell", then_kill)
        endless = {"method": "pgd", "eps": 0.1, "params": {"pgd": {"steps": 10**6}}}
        _run(_matrix(other, knowledge=["gray"], attack=endless), other, here.carry_out)
    assert killed


WIDOW = """
import time
import psutil
from ismn_cli.stages.cluster import cluster

with cluster(None, "cpu") as here:
    next(p for p in psutil.Process().children() if p.name() == "gcs_server").kill()
    here._counted = 0
    here.workers()
time.sleep(61)
print("alive")
"""


@pytest.mark.slow
def test_who_asked_a_dead_head_lives_on(tmp_path: Path) -> None:
    # Ray ends such a process after a minute, whatever it is at by then.
    ended = subprocess.run([sys.executable, "-c", WIDOW], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ended.returncode == 0 and ended.stdout == "alive\n", ended.stderr
