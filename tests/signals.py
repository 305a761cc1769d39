"""Processes of tests, and the signals that they get."""

from __future__ import annotations

import signal


def hears_ctrl_c() -> None:
    """Undo in a process, before it begins, what tests run in the background of a shell pass on: to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
