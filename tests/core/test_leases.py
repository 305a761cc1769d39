"""The lock that needs no lock daemon: one holder at any time, whoever dies whenever."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.core import leases
from ismn_cli.core.leases import STALE, Holder, TakenError, lease

ELSEWHERE = {"host": "node-7", "kernel": "another boot", "pid": 4711, "started": "1", "token": "f" * 32}
WORKER = textwrap.dedent("""
    import os, random, signal, sys, time
    from pathlib import Path
    from ismn_cli.core.leases import TakenError, lease

    def work(folder, seed, until, linkless):
        chance = random.Random(seed)
        log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        tell = lambda what: os.write(log, f"{time.monotonic_ns()} {os.getpid()} {what}\\n".encode())
        while time.monotonic() < until:
            try:
                with lease(folder / "lock"):
                    tell("in")
                    time.sleep(chance.random() * 0.002)
                    tell("out")
                    if chance.random() < 0.2:
                        os.kill(os.getpid(), signal.SIGKILL)
            except TakenError:
                time.sleep(chance.random() * 0.001)

    def begin(folder, seed, until, linkless):
        pid = os.fork()
        if pid == 0:
            code = 7
            try:
                work(folder, seed, until, linkless)
                code = 0
            finally:
                os._exit(code)
        return pid

    folder, seconds, count, linkless = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    linkless = linkless == "linkless"
    if linkless:
        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")
        Path.hardlink_to = refuse
    until, chance, seed = time.monotonic() + seconds, random.Random(0), 0
    working, failed = set(), 0
    while working or time.monotonic() < until:
        while len(working) < count and time.monotonic() < until:
            seed += 1
            working.add(begin(folder, seed, until, linkless))
        time.sleep(chance.random() * 0.002)
        if not linkless and chance.random() < 0.02:
            os.kill(chance.choice(sorted(working)), signal.SIGKILL)
        while working and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            working.discard(ended[0])
            failed += os.waitstatus_to_exitcode(ended[1]) > 0
    print(seed, failed)
""")


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("links", ["links", "linkless"])
def test_one_holder_at_any_time(tmp_path: Path, links: str) -> None:
    """Processes race for the lock, and are killed while they hold it; where there are links, at any moment."""
    with started(WORKER, str(tmp_path), "3", "8", links) as racing:
        begun, failed = map(int, racing.stdout.read().split())
    holding: dict[str, int] = {}
    entered = overlaps = 0
    for moment, pid, what in sorted(line.split() for line in (tmp_path / "log").read_text().splitlines()):
        if what == "in":
            entered += 1
            holding[pid] = int(moment)
        elif pid in holding:
            since = holding.pop(pid)
            # Whoever was killed inside is still in the list, from before.
            overlaps += any(other > since for other in holding.values())
    assert overlaps == failed == 0
    assert begun > 10 and entered > 20
    with lease(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock").exists()


HOLD = """
import sys, pathlib
from ismn_cli.core.leases import lease
with lease(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_is_followed_at_once(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    for _ in range(2):
        holder = started(HOLD, str(lock))
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TakenError) as caught, lease(lock):
            pytest.fail("two hold it")
        assert caught.value.holder.pid == holder.pid and caught.value.holder.here
        holder.send_signal(signal.SIGKILL)
        # As a zombie: nobody has waited for it.
        while os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT) is None:
            time.sleep(0.001)
        with lease(lock):
            pass
        holder.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed in the middle of that would leave one that nobody can read, and wait for it until it is old."""
    lock, replaced = tmp_path / "lock", os.replace
    leave(lock, json.dumps(ELSEWHERE).encode(), STALE + 1)

    def moved(draft: Path, target: Path) -> None:
        (claim,) = (path for path in tmp_path.iterdir() if path not in (draft, lock))
        assert not claim.samefile(draft) and claim.read_bytes() == draft.read_bytes()
        replaced(draft, target)

    monkeypatch.setattr("os.replace", moved)
    assert can_be_had(lock) and list(tmp_path.iterdir()) == []


def leave(lock: Path, content: bytes, age: float) -> None:
    lock.write_bytes(content)
    os.utime(lock, (time.time() - age,) * 2)


def can_be_had(lock: Path) -> bool:
    try:
        with lease(lock):
            assert Holder.model_validate_json(lock.read_bytes()).pid == os.getpid()
    except TakenError:
        return False
    return True


@pytest.mark.parametrize(("age", "free"), [(0, False), (STALE - 30, False), (STALE + 30, True)])
def test_a_holder_elsewhere_is_gone_when_nothing_is_heard_of_it(tmp_path: Path, age: float, free: bool) -> None:
    leave(tmp_path / "lock", json.dumps(ELSEWHERE).encode(), age)
    assert can_be_had(tmp_path / "lock") is free
    assert (tmp_path / "lock").exists() is not free


def test_the_clock_of_this_machine_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path / "lock", json.dumps(ELSEWHERE).encode(), 0)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert not can_be_had(tmp_path / "lock")


def test_a_process_number_that_is_used_again(tmp_path: Path) -> None:
    with lease(tmp_path / "lock"):
        own = json.loads((tmp_path / "lock").read_bytes())
    for changes, free in [({}, False), ({"started": "1"}, True), ({"kernel": "x"}, False), ({"pid": 2**31 - 1}, True)]:
        leave(tmp_path / "lock", json.dumps(own | changes).encode(), 0)
        assert can_be_had(tmp_path / "lock") is free, changes


@settings(max_examples=30)
@given(st.binary(max_size=60) | st.dictionaries(st.text(), st.integers()).map(lambda d: json.dumps(d).encode()))
def test_a_lock_that_cannot_be_read_is_free_when_it_is_old(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    lock = tmp_path_factory.mktemp("run") / "lock"
    leave(lock, content, 0)
    assert not can_be_had(lock)
    leave(lock, content, STALE + 1)
    assert can_be_had(lock)


def test_a_chain_that_bites_its_tail_ends(tmp_path: Path) -> None:
    content = json.dumps(ELSEWHERE).encode()
    successor = leases._Claim(tmp_path, content, 0.0).successor
    for name in ("lock", f"lock.{successor}"):
        leave(tmp_path / name, content, STALE + 1)
    assert not can_be_had(tmp_path / "lock")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leases, "BEAT", 0.02)
    yield


def test_the_holder_is_heard_of(tmp_path: Path, quick: None) -> None:
    with lease(tmp_path / "lock"):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / "lock").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / "lock").stat().st_mtime < 20
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_who_wakes_too_late_says_so_and_takes_nothing_away(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = json.dumps(ELSEWHERE).encode()
    with caplog.at_level(logging.WARNING), lease(tmp_path / "lock"):
        leave(tmp_path / "new", theirs, 0)
        (tmp_path / "new").replace(tmp_path / "lock")
        deadline = time.monotonic() + 20
        while not caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "was taken over" in caplog.text
    assert (tmp_path / "lock").read_bytes() == theirs


def test_a_stale_handle_is_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path / "lock", json.dumps(ELSEWHERE).encode(), 0)
    real, stale = Path.open, iter([True, False])

    def handle(path: Path, *arguments: object, **named: object) -> object:
        if path.name == "lock" and next(stale, False):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", handle)
    assert not can_be_had(tmp_path / "lock")


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"), lease(tmp_path / "lock"):
        pytest.fail("nothing is written")
    assert list(tmp_path.iterdir()) == []
