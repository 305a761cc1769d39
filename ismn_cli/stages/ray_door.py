"""The one door to Ray: imported, connected to, and kept from filling the terminal."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import AbstractContextManager, redirect_stdout
from io import TextIOBase
from typing import Any, TextIO

from ismn_cli.core.errors import UsageError

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1", "RAY_DEDUP_LOGS": "0"}
_LISTENER = "ray_listen_error_messages"
"""The thread in which Ray prints what it thinks of its workers' deaths."""


def the_ray() -> Any:
    """Return the module. Raises UsageError where it is not installed."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--engine ray needs Ray, which is not installed.", "Install it: pip install 'ismn-cli[ray]'"
        ) from None
    return ray


def connect(ray: Any, address: str | None) -> None:
    """Connect to the cluster at ``address``, or start one of this machine. Raises UsageError."""
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except (Exception, SystemExit) as error:  # of many types: a refused token, another version, no cluster to be found
        lines = str(error).strip().splitlines()
        where = f"at '{address}'" if address else "of this machine"
        raise UsageError(
            f"There is no Ray cluster {where}: {lines[0] if lines else type(error).__name__}",
            "Start one: ray start --head. Does it ask for a token? export RAY_AUTH_MODE=token. Or leave --address out: "
            "the cores of this machine work.",
        ) from error


def without_its_pages() -> AbstractContextManager[Any]:
    """Keep standard output free of the pages that Ray prints to it when a process dies."""
    return redirect_stdout(_WithoutRay(sys.stdout))


class _WithoutRay(TextIOBase):
    """A stream without what one thread of Ray writes to it."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name == _LISTENER else self.out.write(text)

    def flush(self) -> None:
        self.out.flush()
