from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from core_cells import ENVIRONMENT

from ismn_cli.core.errors import UsageError
from ismn_cli.core.runs import Run
from ismn_cli.core.store import Store

RECIPE = {"name": "quickstart", "attack": {"eps": [0.3]}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def start(store: Store, identity: str = "a" * 64, name: str = "quickstart") -> Run:
    return store.start_run("run", name, RECIPE, ENVIRONMENT, identity)


def test_a_run_is_recorded_before_it_does_anything(store: Store) -> None:
    run = start(store)
    assert run.record.id == "quickstart-aaaaaaaa"
    assert run.folder == store.root / "runs" / "quickstart-aaaaaaaa"
    assert store.run("latest").record == run.record
    assert (run.record.status, run.record.finished, run.record.recipe) == ("running", None, RECIPE)


def test_the_same_identity_is_the_same_run(store: Store) -> None:
    first = start(store)
    (first.folder / "checkpoint").write_text("epoch 3")
    first.update(status="interrupted", cells=("k" * 64,))
    again = start(store)
    assert (again.folder / "checkpoint").read_text() == "epoch 3"
    assert (again.record.status, again.record.finished) == ("running", None)
    assert again.record.cells == ("k" * 64,)
    assert len(store.runs()) == 1
    assert start(store, identity="b" * 64).folder != first.folder


def test_a_finished_run_stays_finished(store: Store) -> None:
    run = start(store)
    run.update(status="done", weights="w" * 64, figures={"base": {"accuracy": 0.9, "loss": float("nan")}})
    again = start(store)
    assert (again.record.status, again.record.weights) == ("done", "w" * 64)
    assert again.record.finished is not None
    assert repr(again.record.figures) == repr(run.record.figures)


def test_update_checks_and_keeps_the_old_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(store)
    with pytest.raises(ValueError, match="status"):
        run.update(status="finished")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(UsageError, match="No space left"):
            run.update(status="done")
    assert run.record.status == "running"
    assert store.run("latest").record == run.record


def test_latest_is_what_happened_last(store: Store) -> None:
    first, second = start(store, "1" * 64), start(store, "2" * 64)
    assert [run.record.id for run in store.runs()] == ["quickstart-22222222", "quickstart-11111111"]
    first.update(status="done")
    assert store.run("latest").record.id == first.record.id
    second.update(status="interrupted")
    assert store.run("latest").record.id == second.record.id
    start(store, "1" * 64).update(status="done")
    assert store.run("latest").record.id == first.record.id


def test_runs_that_do_not_exist(store: Store) -> None:
    with pytest.raises(UsageError, match="no runs") as caught:
        store.run("latest")
    assert "ismn run quickstart" in caught.value.hint
    start(store)
    for wrong in ("quickstart-aaaaaaab", "../runs/quickstart-aaaaaaaa"):
        with pytest.raises(UsageError) as caught:
            store.run(wrong)
        assert "'quickstart-aaaaaaaa'" in caught.value.hint


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "a b", "x" * 101])
def test_a_run_does_not_leave_the_store(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        start(store, name=name)
    assert not (store.root / "runs").exists()


@pytest.mark.parametrize("spoil", ["garbage", "schema", "misnamed"])
def test_a_corrupt_record_is_left_out_then_replaced(
    store: Store, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = start(store, "a" * 64), start(store, "b" * 64)
    (bad.folder / "checkpoint").write_text("epoch 3")
    path = bad.folder / "record.json"
    content = json.loads(path.read_text())
    changes = {"schema": {"schema_version": 9}, "misnamed": {"id": "other-00000000"}}
    path.write_text("{" if spoil == "garbage" else json.dumps(content | changes[spoil]))
    with caplog.at_level(logging.WARNING):
        assert [run.record.id for run in store.runs()] == [good.record.id]
    assert str(path) in caplog.text
    assert path.exists()
    again = start(store, "b" * 64)
    assert again.record.status == "running"
    assert (again.folder / "checkpoint").read_text() == "epoch 3"
    assert len(store.runs()) == 2
    assert len(list((store.root / "corrupt").iterdir())) == 1


def test_a_folder_without_a_record_is_no_run(store: Store) -> None:
    start(store)
    (store.root / "runs" / "half-made").mkdir()
    assert len(store.runs()) == 1


HOLD = """
import sys, pathlib
from ismn_cli.core.store import Store
with Store.open(pathlib.Path(sys.argv[1])).run("latest").lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_on_one_run(store: Store) -> None:
    run = start(store)
    (run.folder / ".checkpoint.pt.0123.tmp").write_text("left by a killed process")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(store.root)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"process {holder.pid}"), run.lock():
            pytest.fail("two processes hold the lock")
        holder.kill()
    with run.lock():
        assert json.loads((run.folder / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), run.lock():
            pytest.fail("the lock is held twice")
    with run.lock():
        assert list(run.folder.glob(".*.tmp")) == []


def test_the_lock_goes_with_an_error(store: Store) -> None:
    run = start(store)
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    with run.lock():
        assert store.run("latest").record == run.record
