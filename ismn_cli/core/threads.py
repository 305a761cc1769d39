"""Threads that wait for one another sleep: a core that another job has taken is not waited for at full speed."""

from __future__ import annotations

import os


def wait_asleep() -> None:
    """Let OpenMP's threads sleep where they wait, unless the environment says otherwise; before torch is imported.

    By itself libgomp has them spin. On two cores, one of them taken by another job, PGD on Table 1's net then took half
    as long again, and 1.7 times the processor time; with both cores free there was no difference, nor in training.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
