"""Groups of images side by side on a CPU: processes of one thread each, for a group is too little work for several.

On two cores two of them took 1.37 times as many gradients of Table 1's net in bf16 as one process with two threads, and
1.25 times as many in float32.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ismn_cli.engine.counting import heard, tell
from ismn_cli.engine.groups import FEWEST
from ismn_cli.engine.memory import free_bytes

Part = TypeVar("Part")
Result = TypeVar("Result")

STUCK = 60.0
"""Seconds without any processor time after which a child waits for what only its parent has, such as a thread."""
TOLD_EVERY = 0.5
"""Seconds between two messages about passes."""
LARGE = 2**15
"""Pixels of an image from which on a group is work enough for several threads, and takes gigabytes."""
NEED, PER_PIXEL = 2**30, 2**17
"""Bytes that a child is taken to need: at least, and for each pixel of an image. WideResNet-28-10 takes 0.14 GiB for a
group at 32x32 and 2.2 at 128x128, beside the weights, which are the parent's."""
_THREADED = {"jax", "onnxruntime", "openvino", "tensorflow"}
"""Packages with threads of their own that a forked process waits for in vain."""
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def forks(x: Tensor) -> bool:
    """Whether groups of images like x [N, C, H, W] are attacked on one thread each, in forks of this process.

    Not where torch's gradients do not survive a fork, since there is a GPU, nor beside packages that do not survive it
    themselves.
    """
    here = x.device.type == "cpu" and x.shape[-2] * x.shape[-1] < LARGE
    safe = sys.platform == "linux" and not torch.accelerator.is_available() and not _THREADED & sys.modules.keys()
    return here and safe


def processes(x: Tensor) -> int:
    """Return how many processes attack x [N, ...] side by side: as many as torch has threads, where memory allows."""
    free = free_bytes(x.device)
    # A daemon may not have children.
    most = 1 if multiprocessing.current_process().daemon else min(torch.get_num_threads(), len(x) // FEWEST)
    need = max(NEED, PER_PIXEL * x.shape[-2] * x.shape[-1])
    return max(1, most if free is None else min(most, free // need))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute a block on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[Part], Result], parts: Sequence[Part], count: int) -> list[Result]:
    """Return what ``work`` makes of each part, in order, from ``count`` forks of this process, or from itself.

    ``work`` changes nothing that is needed afterwards, and what it returns can be pickled. A part that a child does not
    manage, for whatever reason, is done here in the end: what it raises, it raises here. Passes are told as they are
    made (see `ismn_cli.engine.counting.heard`).
    """
    found: dict[int, Result] = {}
    left = list(range(len(parts)))[::-1]
    children = list[_Child]()
    try:
        with suppress(OSError):  # no more processes are to be had
            while count > max(1, len(children)):
                children.append(_Child(work, parts))
        while busy := [child for child in children if child.at_work(left)]:
            ready = wait([child.pipe for child in busy], timeout=1.0)
            for child in busy:
                if child.pipe in ready:
                    found.update(child.heard())
                elif child.stuck():
                    child.end()
    finally:
        for child in children:
            child.end()
    return [found[number] if number in found else work(part) for number, part in enumerate(parts)]


class _Child:
    """A process that does parts, one at a time."""

    def __init__(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.part: int | None = None
        self.alive, self.spent, self.since = True, 0, time.monotonic()
        self.process = context.Process(target=_serve, args=(work, parts, theirs, os.getpid()), daemon=True)
        with warnings.catch_warnings():
            # That other threads' locks may be held: see `stuck`.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()

    def at_work(self, left: list[int]) -> bool:
        """Give it one of the parts that are ``left``, if it has none; whether it has one."""
        if self.alive and self.part is None and left:
            self.part = left.pop()
            try:
                self.pipe.send(self.part)
            except OSError:
                self.end()
        return self.alive and self.part is not None

    def heard(self) -> dict[int, Any]:
        """Take in a message; return the result that it brings, by the number of its part."""
        assert self.part is not None
        try:
            passes, outcome = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.end()
            return {}
        tell(passes)
        if outcome is None:
            return {}
        part, self.part = self.part, None
        return {part: outcome[0]} if outcome else {}

    def stuck(self) -> bool:
        """Whether it has done nothing for too long."""
        spent, now = _ticks(self.process.pid), time.monotonic()
        if spent != self.spent:
            self.spent, self.since = spent, now
        return now - self.since > STUCK

    def end(self) -> None:
        """End it, whatever it is at."""
        if self.alive:
            self.alive = False
            self.process.kill()
            self.process.join()
            self.pipe.close()


def _ticks(pid: int | None) -> int:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _serve(work: Callable[[Any], Any], parts: Sequence[Any], pipe: Connection, parent: int) -> None:
    """Do the parts whose numbers come, in a child.

    A message is passes made, and what came of a part: its result in a tuple, an empty one if there is none, None as
    long as it is under way.
    """
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Ctrl-C reaches the parent too, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    with heard(_Passes(pipe).add):
        while True:
            number = pipe.recv()
            if number:
                # What warns, warns for each part alike, and is heard once.
                warnings.showwarning = lambda *_, **__: None
            try:
                outcome: tuple[Any, ...] = (work(parts[number]),)
            except Exception:  # the parent will see it
                outcome = ()
            # Not pipe.send, which would share the memory of tensors, and leave it to nobody.
            pipe.send_bytes(pickle.dumps((0, outcome)))


class _Passes:
    """Passes made, told now and then."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.made, self.told = pipe, 0, time.monotonic()

    def add(self, passes: int) -> None:
        self.made += passes
        if time.monotonic() - self.told > TOLD_EVERY:
            self.pipe.send_bytes(pickle.dumps((self.made, None)))
            self.made, self.told = 0, time.monotonic()
