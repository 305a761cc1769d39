"""Who computes the cells of a matrix: this process, or the workers of a cluster."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ismn_cli.cli.console import say
from ismn_cli.core.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from ismn_cli.stages.cluster import Cluster

ENGINES = ("local", "ray")


@contextmanager
def workers(engine: str | None, address: str | None, device: str | None) -> Iterator[Cluster | None]:
    """Connect to the workers that the options ask for, and say who they are; None for this process.

    Raises UsageError for what is no engine, an address without one, and as `ismn_cli.stages.cluster.cluster` does.
    """
    if engine not in (None, *ENGINES):
        raise unknown_name("engine", str(engine), ENGINES)
    if engine != "ray":
        if address is not None:
            raise UsageError("--address is where a Ray cluster is, and Ray is not asked for.", "Add: --engine ray")
        yield None
        return
    from ismn_cli.stages.cluster import cluster

    with _watched(), cluster(address, device or "auto") as found:
        say(f"ray: {found.told()}")
        yield found


@contextmanager
def _watched() -> Iterator[None]:
    """Have another process say so where this one ends without a word, as Ray ends it when its node is gone."""
    command = shlex.join(["ismn", *sys.argv[1:]])
    told = f"error: Ray is gone, or this process was killed. What is done is stored; to continue:\n  {command}\n"
    watch = "import sys; sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1])"
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", watch, told], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        with suppress(OSError):  # it has been killed itself
            watcher.communicate(b"in order")
