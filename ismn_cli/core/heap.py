"""Memory that a step frees is kept for the next one. Given back to the system, each of its pages costs a fault anew."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
"""Both are an int of C."""


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees, for what it takes next.

    By itself glibc gives back every block of 32 MiB and more at once. On a CPU faults were a fifth of the time of a
    training step of Table 1's net at batch 128, and an eighth of that of CelebANet's gradient for 8 images at 128x128.
    What is free after a peak is not seen by other processes until this one ends, and the peak was seen to be an eighth
    higher. Does nothing where the C library is another one, or has been told in the environment, such as by
    ``MALLOC_TRIM_THRESHOLD_``.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, _MOST)
