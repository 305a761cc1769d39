"""The one door to Ray: imported, connected to, and kept from filling the terminal."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import AbstractContextManager, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO

from ismn_cli.core.errors import UsageError

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_DEDUP_LOGS": "0",
    # After these seconds without a cluster's head Ray ends the process that asks for it, even one that has let go of
    # the cluster: that may be a notebook. That the head is gone is what `pulse` notices, sooner.
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(10**6),
}
_SILENT: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
_TOKEN = Path(os.path.expanduser("~/.ray/auth_token"))  # noqa: PTH111 - pathlib's raises where there is no home
_LISTENER = "ray_listen_error_messages"
"""The thread in which Ray prints what it thinks of its workers' deaths."""


def the_ray() -> Any:
    """Return the module. Raises UsageError where it is not installed."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules and _TOKEN.is_file():
        # `ray start` made it, and lets in who shows it; a cluster that asks for none takes it too. Ray itself looks
        # when it is imported: later, the processes that it starts would ask for what it does not show them.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
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
    if address is None:
        _start(ray)
        return
    try:
        ray.init(address=address, **_SILENT)
    except (Exception, SystemExit) as error:  # of many types: a refused token, another version, no cluster to be found
        raise UsageError(
            f"There is no Ray cluster at '{address}': {_first_line(error)}",
            "Start one: ray start --head. Does it ask for a token? export RAY_AUTH_MODE=token. Or leave --address out: "
            "the cores of this machine work.",
        ) from error


def _start(ray: Any) -> None:
    """Start a cluster of this machine; once more where its processes are not up in Ray's time, as on a busy machine."""
    for last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, **_SILENT)
            return
        except (Exception, SystemExit) as error:
            ray.shutdown()
            if last:
                raise UsageError(
                    f"Ray does not start on this machine: {_first_line(error)}",
                    "Type it again when the machine is less busy: what is stored is kept. Or: --engine local",
                ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
