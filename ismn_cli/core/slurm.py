"""What a matrix asks of a Slurm cluster: how many shards it is cut into, and what each job may take. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ismn_cli.core.errors import UsageError
from ismn_cli.core.forecast import Forecast
from ismn_cli.core.outlook import Outlook

SAFETY = 2.0
"""Times what is predicted, that is asked for: of time and of memory."""
HOUR = 3600.0
"""Seconds that a shard takes, about, where their number is not given."""
START = 150.0
"""Seconds until a job computes: Python, weights and images from a file system that others use too."""
MOST = 1000
"""Elements of a job array: Slurm's MaxArraySize is 1001 unless a cluster raises it."""
RESULT = 260
"""Bytes in memory of a cell's result for an image: measured by benchmarks/study_size.py, as what follows."""
MERGE = 10e-6
"""Seconds for it to be read, put together, audited and reported."""


@dataclass(frozen=True)
class Ask:
    """What a job asks for."""

    seconds: float
    memory: int
    """Bytes."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of a matrix: an array of shards, and the one that puts them together."""

    shards: int
    forecast: float
    """Seconds of the longest shard, as predicted."""
    shard: Ask
    report: Ask


def jobs_of(
    found: Forecast, outlook: Outlook, images: int, batch_size: int, held: int, shards: int | None = None
) -> Jobs:
    """Return the jobs for so many ``images``; of about an hour each unless the number of ``shards`` is given.

    ``held``: bytes that a process took to time the systems, all of them loaded. Raises UsageError for more shards than
    there are batches.
    """
    batches = max(1, -(-images // batch_size))
    each = (found.seconds(images) - found.fixed_seconds) / images if images else 0.0
    if shards is not None and not 1 <= shards <= batches:
        raise UsageError(
            f"{images:,} images are {batches:,} batches of {batch_size}: they cannot be cut into {shards:,} shards.",
            f"Give --shards from 1 to {batches}, or a smaller batch_size.",
        )
    chosen = shards or max(1, min(math.ceil(images * each / HOUR), batches, MOST))
    longest = min(images, -(-batches // chosen) * batch_size)
    cells = sum(system.cells for system in outlook.systems)
    working = max(held, _peak(outlook) if outlook.device == "cpu" else 0)
    return Jobs(
        shards=chosen,
        forecast=longest * each,
        shard=_ask(longest * each, working + cells * longest * RESULT),
        report=_ask(found.fixed_seconds + cells * images * MERGE, working + cells * images * RESULT),
    )


def _ask(seconds: float, memory: float) -> Ask:
    return Ask(SAFETY * (START + seconds), int(SAFETY * memory))


def _peak(outlook: Outlook) -> int:
    """Return the bytes of the dearest step's tensors, and what Python and torch take beside them."""
    return max((each.peak or 0 for each in outlook.footprints), default=0) + 2**29
