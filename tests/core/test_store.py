from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from core_cells import a_result, results
from hypothesis import given

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import CellResult
from ismn_cli.core.store import Store

KEY = a_result().cell.key()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def cell_file(store: Store, key: str = KEY) -> Path:
    return store.root / "cells" / key[:2] / f"{key}.json"


def leftovers(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*.tmp") if path.is_file()]


@given(results())
def test_what_is_put_is_what_is_got(tmp_path_factory: pytest.TempPathFactory, result: CellResult) -> None:
    store = Store.open(tmp_path_factory.mktemp("store"))
    assert store.cell(result.cell.key()) is None
    store.put_cell(result)
    got = store.cell(result.cell.key())
    # repr, because NaN is not equal to itself
    assert repr(got) == repr(result)


def test_the_last_put_stands(store: Store) -> None:
    store.put_cell(a_result(1))
    store.put_cell(a_result(2))
    assert store.cell(KEY) == a_result(2)
    assert leftovers(store) == []


def test_columns_of_unequal_length_are_not_stored(store: Store) -> None:
    with pytest.raises(ValueError, match="length"):
        store.put_cell(a_result().model_copy(update={"labels": (1, 2)}))
    assert store.cell(KEY) is None


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def edited(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def misnamed(path: Path) -> None:
    path.write_text(json.dumps(a_result(seed=7).model_dump(mode="json")))


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        garbage,
        emptied,
        zeroed,
        misnamed,
        edited(schema_version=2),
        edited(surprise=1),
        edited(labels=[0]),
        edited(failed=[]),
    ],
)
def test_what_cannot_be_trusted_is_reported_and_set_aside(
    store: Store, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store.put_cell(a_result(1))
    spoil(cell_file(store))
    content = cell_file(store).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert store.cell(KEY) is None
    assert str(cell_file(store)) in caplog.text
    (aside,) = (store.root / "corrupt").iterdir()
    assert aside.read_bytes() == content
    store.put_cell(a_result(2))
    assert store.cell(KEY) == a_result(2)


def test_a_key_does_not_lead_out_of_the_store(store: Store) -> None:
    precious = store.root.parent / "precious.json"
    precious.write_text("{}")
    for ask in (store.cell, store.examples):
        with pytest.raises(UsageError):
            ask("../../precious")
    assert precious.read_text() == "{}"


KILLED = textwrap.dedent("""
    import os, pathlib, signal, sys
    from core_cells import a_result
    from ismn_cli.core.store import Store

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def half(path, text, **_):
        with path.open("w") as stream:
            stream.write(text[: len(text) // 2])
            stream.flush()
            die()

    def after(*arguments, real=os.replace):
        real(*arguments)
        die()

    stage = sys.argv[2]
    if stage == "write": pathlib.Path.write_text = half
    if stage == "flush": os.fsync = die
    if stage == "before move": os.replace = die
    if stage == "after move": os.replace = after
    Store.open(pathlib.Path(sys.argv[1])).put_cell(a_result(2))
""")


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("old", [None, a_result(1)], ids=["nothing", "old"])
@pytest.mark.parametrize("stage", ["write", "flush", "before move", "after move"])
def test_kill_in_the_middle_of_a_put(store: Store, old: CellResult | None, stage: str) -> None:
    if old:
        store.put_cell(old)
    with child(KILLED, str(store.root), stage) as process:
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert store.cell(KEY) == (a_result(2) if stage == "after move" else old)
    assert not (store.root / "corrupt").exists()
    store.put_cell(a_result(3))
    assert store.cell(KEY) == a_result(3)


ENDLESS = textwrap.dedent("""
    import itertools, pathlib, sys
    from core_cells import a_result
    from ismn_cli.core.store import Store
    store = Store.open(pathlib.Path(sys.argv[1]))
    versions = [a_result(mark, n=2000) for mark in range(3)]
    print("ready", flush=True)
    for version in itertools.cycle(versions):
        store.put_cell(version)
""")


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011, 0.05])
def test_kill_at_a_random_moment(store: Store, delay: float) -> None:
    versions = [a_result(mark, n=2000) for mark in range(3)]
    with child(ENDLESS, str(store.root)) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
    assert store.cell(versions[0].cell.key()) in [None, *versions]
    assert not (store.root / "corrupt").exists()


def put_many(root: Path, mark: int, times: int) -> None:
    store = Store.open(root)
    for _ in range(times):
        store.put_cell(a_result(mark, n=500))


def test_writers_at_the_same_time(store: Store) -> None:
    versions = [a_result(mark, n=500) for mark in range(4)]
    key = versions[0].cell.key()
    store.put_cell(versions[0])
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=put_many, args=(store.root, mark, 20)) for mark in range(4)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert store.cell(key) in versions
        reads += 1
    assert reads > 0
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert store.cell(key) in versions
    assert not (store.root / "corrupt").exists()
    assert leftovers(store) == []


def refusing(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "pathlib.Path.write_text", "pathlib.Path.mkdir"])
@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.ENOSPC, "Free some space"), (errno.EDQUOT, "Free some space"), (errno.EACCES, "may write")],
)
def test_a_disk_that_refuses(
    store: Store, monkeypatch: pytest.MonkeyPatch, place: str, code: int, hint: str
) -> None:
    store.put_cell(a_result(1))
    with monkeypatch.context() as patch:
        patch.setattr(place, refusing(code))
        with pytest.raises(UsageError) as caught:
            store.put_cell(a_result(2))
    assert os.strerror(code) in caught.value.message
    assert hint in caught.value.hint
    assert store.cell(KEY) == a_result(1)
    assert leftovers(store) == []


def test_a_full_disk_while_setting_aside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_cell(a_result(1))
    garbage(cell_file(store))
    monkeypatch.setattr("pathlib.Path.mkdir", refusing(errno.ENOSPC))
    assert store.cell(KEY) is None


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ISMN_HOME", raising=False)
    assert Store.open().root == tmp_path / "home" / ".ismn"
    monkeypatch.setenv("ISMN_HOME", "")
    assert Store.open().root == tmp_path / "home" / ".ismn"
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "named"))
    assert Store.open().root == tmp_path / "named"
    assert Store.open(tmp_path / "given").root == tmp_path / "given"


def test_the_store_stays_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(Path("here"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put_cell(a_result(1))
    assert Store.open(tmp_path / "here").cell(KEY) == a_result(1)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"Cannot write.*file") as caught:
            Store.open(place)
        assert "ISMN_HOME" in caught.value.hint
    # root may write anywhere, so permissions alone would not test this
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match="Permission denied"):
        Store.open(tmp_path / "mine")


def test_a_device_is_written_to_and_stays_one() -> None:
    from ismn_cli.core.storage import write_text

    before = Path("/dev/null").stat().st_mode
    write_text(Path("/dev/null"), "x")
    assert Path("/dev/null").stat().st_mode == before


def test_a_link_keeps_pointing_to_its_file(tmp_path: Path) -> None:
    from ismn_cli.core.storage import write_text

    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
