"""Work on many files, done ahead of who needs it by processes of their own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
CHUNK = 32
"""Files that a worker is handed at a time."""
AHEAD = 4
"""Chunks in flight for each worker: what they hold in memory is bounded by it."""
MOST = 8


def worked(function: Callable[[Sequence[str]], T], items: Sequence[str], few: int) -> Generator[T]:
    """Yield ``function`` of each chunk of ``items``, in order; in this process if there are at most ``few``.

    ``function`` must be picklable. Where the processes cannot start, or one is killed, this process does the rest.
    """
    chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    count, done = min(_cores(), MOST), 0
    if len(items) > few and count > 1:
        try:
            for result in _ahead(function, chunks, count):
                yield result
                done += 1
        except BrokenProcessPool:
            log.warning("The worker processes ended before their work; it is done in this one, which takes longer.")
    yield from map(function, chunks[done:])


def _ahead(function: Callable[[Sequence[str]], T], chunks: Sequence[Sequence[str]], count: int) -> Generator[T]:
    # spawn: a copy of this process, with torch's threads in it, may hang
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)
    waiting: deque[Future[T]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(function, chunk))
            if len(waiting) >= AHEAD * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
