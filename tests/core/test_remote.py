"""Stores at URLs: in memory, in a folder by file://, and on a server that speaks S3."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from core_cells import ENVIRONMENT, a_result, results
from hypothesis import given
from s3_server import Server

from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Audit, Finding, Verdict, read_audit, write_audit
from ismn_cli.core.runs import Run
from ismn_cli.core.storage import home_folder, is_remote, names_in, open_place, remove_folder, write_whole
from ismn_cli.core.store import Store

pytest.importorskip("upath", reason="universal-pathlib is not installed: stores are folders")

KEY, NUMBER = a_result().cell.key(), count()
FINDING = Finding(code="GM03", verdict=Verdict.PASS, subject="none", says="It holds.")


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3').bucket()}/a study/of mine"
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://lab-{next(NUMBER)}/study"


@pytest.fixture
def store(url: str) -> Store:
    return Store.open(url)


def start(store: Store, identity: str = "a" * 64) -> Run:
    return store.start_run("run", "quickstart", {"name": "quickstart"}, ENVIRONMENT, identity)


def batch(mark: float, side: int = 8) -> dict[str, np.ndarray]:
    return {"adversarial": np.full((4, 3, side, side), mark, np.float32), "failed": np.zeros(4, bool)}


@given(results())
def test_what_is_put_is_what_is_got(result: object) -> None:
    store = Store.open(f"memory://lab-{next(NUMBER)}/study")
    key = result.cell.key()
    assert store.cell(key) is None
    store.put_cell(result)
    assert repr(store.cell(key)) == repr(result)
    assert [repr(found) for _, found in store.cells([key, "0" * 64])] == [repr(result), "None"]


def test_all_that_a_store_keeps(store: Store, url: str) -> None:
    store.put_cell(a_result(1))
    store.put_cell(a_result(2))
    store.put_findings(KEY, [FINDING])
    store.examples(KEY).put_batch(3, batch(0.5), {"note": "x"})
    run = start(store)
    run.update(status="interrupted", cells=(KEY,))
    audit = Audit(run=run.record.id, cells=(KEY,), findings=(FINDING,))
    write_audit(run.folder, audit)

    again = Store.open(url)
    assert again.cell(KEY) == a_result(2)
    assert again.findings(KEY) == (FINDING,)
    arrays, notes = again.examples(KEY).read(3)
    assert notes == {"note": "x"} and np.array_equal(arrays["adversarial"], batch(0.5)["adversarial"])
    assert again.examples(KEY).read(0) is None
    assert again.run("latest").record == run.record and read_audit(again.run("latest").folder) == audit
    assert start(again).record.cells == (KEY,) and len(again.runs()) == 1


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def another(content: bytes) -> bytes:
    return json.dumps(a_result(seed=7).model_dump(mode="json")).encode()


@pytest.mark.parametrize("spoil", [truncated, another, lambda _: b"", lambda _: bytes(range(256))])
def test_what_cannot_be_trusted_is_reported_and_set_aside(
    store: Store, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    store.put_cell(a_result(1))
    path = store.root / "cells" / KEY[:2] / f"{KEY}.json"
    path.write_bytes(spoil(path.read_bytes()))
    store.examples(KEY).put_batch(0, batch(0.5), {})
    examples = store.root / "examples" / KEY[:2] / KEY / "batch-00000.safetensors"
    examples.write_bytes(examples.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert store.cell(KEY) is None and store.examples(KEY).read(0) is None
    assert str(path) in caplog.text and str(examples) in caplog.text
    assert not path.exists() and len(names_in(store.root / "corrupt")) == 2
    store.put_cell(a_result(2))
    assert store.cell(KEY) == a_result(2)


def test_a_run_that_is_not_one_is_left_out(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    run = start(store)
    for name in ("other-00000000", "odd*name[1]?"):
        write_whole(store.root / "runs" / name / "record.json", lambda t: t.write_text(run.record.model_dump_json()))
    with caplog.at_level(logging.WARNING):
        assert [found.record.id for found in store.runs()] == [run.record.id]
    assert "other-00000000" in caplog.text


def test_a_folder_goes_and_its_neighbours_stay(store: Store) -> None:
    for name in ("parts/ab/a.json", "parts/ab/b.json", "parts/abc/c.json"):
        write_whole(store.root / name, lambda temporary: temporary.write_text("x"))
    remove_folder(store.root / "parts" / "ab")
    remove_folder(store.root / "parts" / "ab")
    assert names_in(store.root / "parts" / "ab") == [] and names_in(store.root / "parts" / "abc") == ["c.json"]


def test_writers_at_the_same_time(store: Store) -> None:
    versions = [a_result(mark, n=500) for mark in range(3)]
    key = versions[0].cell.key()
    store.put_cell(versions[0])

    def put(version: object) -> None:
        for _ in range(10):
            store.put_cell(version)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(put, version) for version in versions]
        while not all(writer.done() for writer in writers):
            assert store.cell(key) in versions
    assert [writer.result() for writer in writers] == [None] * 3
    assert store.cell(key) in versions and names_in(store.root / "corrupt") == []


def test_what_others_write_is_seen_at_once(s3: Server) -> None:
    from s3fs import S3FileSystem

    url = s3.bucket()
    here = Store.open(url)
    assert here.runs() == [] and here.cell(KEY) is None
    S3FileSystem.clear_instance_cache()
    there = Store.open(url)
    assert there.root.fs is not here.root.fs
    start(there)
    there.put_cell(a_result(1))
    assert len(here.runs()) == 1 and here.cell(KEY) == a_result(1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    from s3fs import S3FileSystem

    counted: Counter[str] = Counter()
    real = S3FileSystem._call_s3

    async def count_it(self: S3FileSystem, method: str, *arguments: object, **named: object) -> object:
        counted[method] += 1
        return await real(self, method, *arguments, **named)

    monkeypatch.setattr(S3FileSystem, "_call_s3", count_it)
    return counted


def test_one_request_for_one_thing(s3: Server, calls: Counter[str]) -> None:
    store = Store.open(s3.bucket())
    assert calls == {"get_object": 1, "put_object": 1}
    for number in range(5):
        start(store, f"{number}" * 64)
    calls.clear()
    store.put_cell(a_result(1))
    assert store.cell(KEY) == a_result(1) and store.cell("0" * 64) is None
    assert calls == {"put_object": 1, "get_object": 2}
    calls.clear()
    store.examples(KEY).put_batch(0, batch(0.5, side=512), {})  # 12 MiB
    assert store.examples(KEY).read(0) is not None
    assert calls == {"put_object": 1, "get_object": 1}
    calls.clear()
    assert len(store.runs()) == 5
    assert calls["get_object"] == 5 and set(calls) <= {"get_object", "list_objects_v2"}


class Cut:
    """A server between, that ends each connection when so many bytes have gone to the server."""

    def __init__(self, address: str, after: int) -> None:
        self.target, self.after = address.removeprefix("http://").split(":"), after
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self.pass_on, args=(client,), daemon=True).start()

    def pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection((self.target[0], int(self.target[1]))) as behind:
            threading.Thread(target=self.answer, args=(behind, client), daemon=True).start()
            left = self.after
            while left and (some := client.recv(min(left, 65536))):
                behind.sendall(some)
                left -= len(some)
            for end in (client, behind):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def answer(self, behind: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while some := behind.recv(65536):
                client.sendall(some)


@pytest.mark.parametrize("after", [0, 100, 200_000])
def test_a_put_that_is_cut_leaves_what_was_there(s3: Server, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    from s3fs import S3FileSystem

    url = s3.bucket()
    store = Store.open(url)
    store.examples(KEY).put_batch(0, batch(0.1, side=128), {})  # 800 kB
    monkeypatch.setattr(S3FileSystem, "retries", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    between = Cut(s3.address, after)
    monkeypatch.setenv("AWS_ENDPOINT_URL", between.address)
    S3FileSystem.clear_instance_cache()
    cut = Store(open_place(url))
    for number in (0, 1):
        with pytest.raises(UsageError, match="Cannot write") as caught:
            cut.examples(KEY).put_batch(number, batch(0.2, side=128), {})
        assert "what was stored is kept" in caught.value.hint
    between.door.close()
    arrays, _ = store.examples(KEY).read(0)
    assert np.array_equal(arrays["adversarial"], batch(0.1, side=128)["adversarial"])
    assert store.examples(KEY).read(1) is None


ENDLESS = textwrap.dedent("""
    import itertools, sys
    import numpy as np
    from ismn_cli.core.store import Store
    examples = Store.open(sys.argv[1]).examples(sys.argv[2])
    print("ready", flush=True)
    for mark in itertools.cycle([0.1, 0.2]):
        examples.put_batch(0, {"adversarial": np.full((16, 3, 256, 256), mark, np.float32)}, {})
""")


@pytest.mark.parametrize("delay", [0.05, 0.31])
def test_kill_in_the_middle_of_a_put(s3: Server, delay: float) -> None:
    url = s3.bucket()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ENDLESS, url, KEY]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    found = Store.open(url).examples(KEY).read(0)
    assert found is None or len(np.unique(found[0]["adversarial"])) == 1
    assert names_in(open_place(url) / "corrupt") == []


def run(*arguments: str, first: str = "", last: str = "sys.exit(code)") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with something before and after it."""
    begin = f"import sys; {first}\nfrom ismn_cli.cli.app import exit_code"
    command = [sys.executable, "-c", f"{begin}\ncode = exit_code(sys.argv[1:])\n{last}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})


def refused(url: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        Store.open(url)
    assert url in caught.value.message and "\n" not in caught.value.message and caught.value.hint
    return caught.value


def test_no_such_bucket(s3: Server) -> None:
    assert "bucket does not exist" in refused("s3://nobody-has-this/study").message


def test_refused_credentials(s3: Server) -> None:
    url = s3.bucket()
    s3.ask("POST", "moto-api/reset-auth", b"0")
    try:
        assert "credentials" in refused(url).hint
    finally:
        s3.ask("POST", "moto-api/reset-auth", b"inf")
    Store.open(url)


def test_no_credentials(s3: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = s3.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "credentials" in refused(url).message


def test_a_server_that_is_away(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "connect" in refused("s3://lab/study").message


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/study", "s3://"),
        ("s3://", "names no bucket"),
        ("s3:///", "names no bucket"),
        ("simplecache::s3://lab/study", "cannot be kept"),
        ("memory://lab/[a-z]*", "signs"),
    ],
)
def test_places_that_no_store_can_be_kept_at(url: str, told: str) -> None:
    error = refused(url)
    assert told in f"{error.message} {error.hint}"


@pytest.mark.parametrize("missing", ["upath", "s3fs"])
def test_packages_that_are_missing(missing: str) -> None:
    done = run("list", "runs", "--store", "s3://lab/study", first=f"sys.modules[{missing!r}] = None")
    assert done.returncode == 2 and not done.stdout
    assert 'pip install "ismn-cli[cloud]" s3fs' in done.stderr and missing in done.stderr


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISMN_HOME", f"memory://lab-{next(NUMBER)}/study")
    yield tmp_path / ".ismn"
    assert {path.name for path in tmp_path.iterdir()} <= {".ismn", "mine", "store"}


def test_what_has_to_be_files_lies_in_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open()
    assert is_remote(store.root) and store.local().root == home_folder() == home
    assert store.local().runs() == [] and start(store).local_folder() == home / "runs" / "quickstart-aaaaaaaa"
    folder = Store.open(home.parent / "mine")
    assert folder.local() is folder and start(folder).local_folder() == start(folder).folder
    for named in (str(home.parent / "mine"), f"file://{home.parent}/mine"):
        monkeypatch.setenv("ISMN_HOME", named)
        assert Store.open().root == store.local().root == home.parent / "mine"


def test_a_training_is_refused(home: Path) -> None:
    store = Store.open()
    with pytest.raises(UsageError, match="needs a folder") as caught:
        store.start_run("train", "mine", {}, ENVIRONMENT, "a" * 64)
    assert "ismn train --store DIR" in caught.value.hint and str(home) in caught.value.hint
    with pytest.raises(UsageError, match="needs a folder"), start(store).lock():
        pytest.fail("nothing can be locked there")
    assert [run.record.kind for run in store.runs()] == ["run"]


def test_a_folder_needs_no_package_of_theirs(tmp_path: Path) -> None:
    last = "sys.exit(code or ','.join({'fsspec', 'upath', 's3fs'} & set(sys.modules)) or 0)"
    done = run("report", "--store", str(tmp_path / "store"), "--format", "markdown", last=last)
    assert done.returncode == 0, done.stderr[-500:]
