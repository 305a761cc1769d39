"""The lock under every order of its steps that hypothesis thinks of: contenders that stop, go on, die and let go."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.core import leases
from ismn_cli.core.leases import TakenError

STEPS, HELD = 60, 10


class DeadError(BaseException):
    """Raised in a contender at its last step, and at each after it: a killed process does nothing more."""


class Contender(threading.Thread):
    """Takes the lock and lets it go, so many times, one step at each call of `go`; dies before step ``last``."""

    def __init__(self, lock: Path, last: int, rounds: int, holding: list[Contender]) -> None:
        super().__init__(daemon=True)
        self.leases = [leases._Lease(lock) for _ in range(rounds)]
        self.last, self.holding = last, holding
        self.may, self.came, self.steps, self.dead, self.over = threading.Event(), threading.Event(), 0, False, False

    def run(self) -> None:
        with suppress(DeadError):
            for lease in self.leases:
                with suppress(TakenError):
                    lease.take()
                    self.holding.append(self)
                    for _ in range(HELD):
                        self.step()
                    self.holding.remove(self)
                    lease.release()
        self.over = True
        self.came.set()

    def step(self) -> None:
        """Wait for the scheduler, as every call of the file system does."""
        if not self.dead:
            self.came.set()
            self.may.wait()
            self.may.clear()
            self.steps += 1
            self.dead = self.steps > self.last
        if self.dead:
            raise DeadError

    def go(self) -> None:
        """Make one step."""
        self.came.clear()
        self.may.set()
        self.came.wait(10)


@contextmanager
def stepping(alive: Callable[[bytes], bool]) -> Iterator[None]:
    """Have each step of a contender wait for its turn; ``alive`` says of whom a lock is."""

    def stepped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            here = threading.current_thread()
            if isinstance(here, Contender):
                here.step()
            return real(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "_alive", lambda claim, now: alive(claim.content))
        patch.setattr(leases, "_read", stepped(leases._read))
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "replace", stepped(os.replace))
        patch.setattr(Path, "unlink", stepped(Path.unlink))
        patch.setattr(Path, "hardlink_to", stepped(Path.hardlink_to))
        yield


@settings(max_examples=250)
@given(
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 25)), max_size=12),
    lasts=st.tuples(*[st.integers(0, STEPS) | st.just(10**6)] * 3),
    rounds=st.integers(1, 2),
    dead=st.booleans(),
)
def test_never_two_holders(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[int, int]],
    lasts: tuple[int, ...],
    rounds: int,
    dead: bool,
) -> None:
    lock = tmp_path_factory.mktemp("run") / "lock"
    if dead:
        lock.write_bytes(b"a process that is no more")
    holding: list[Contender] = []
    contenders = [Contender(lock, last, rounds, holding) for last in lasts]
    own = {lease.content: one for one in contenders for lease in one.leases}

    def living() -> list[Contender]:
        return [one for one in holding if not one.dead]

    with stepping(lambda content: content in own and not (own[content].dead or own[content].over)):
        for one in contenders:
            one.start()
            one.came.wait(10)
        whose = [number for number, steps in turns for _ in range(steps)]
        for turn in [*whose, *range(3 * STEPS * 20)]:
            one = contenders[turn % 3]
            if not one.over:
                one.go()
            assert len(living()) <= 1
        assert all(one.over for one in contenders)
        with leases.lease(lock):
            assert lock.read_bytes()
