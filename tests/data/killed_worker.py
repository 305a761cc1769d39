"""Work that kills who does it. A module of its own: worker processes import nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence


def dies_elsewhere(items: Sequence[str]) -> list[str]:
    """Return the items in the process whose number they are; kill any other."""
    if os.getpid() != int(items[0]):
        os.kill(os.getpid(), signal.SIGKILL)
    return list(items)
