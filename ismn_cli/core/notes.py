"""Notes on a cell, from many batches: each is told once, with the samples of all."""

from __future__ import annotations

import re
from collections.abc import Iterable

_COUNT = re.compile(r"\d+(?= samples)")


def merged(notes: Iterable[str]) -> tuple[str, ...]:
    """Return each note once, in order of appearance; those that differ in "N samples" only as one, with the sum."""
    counts: dict[str, list[int]] = {}
    for note in notes:
        found = _COUNT.search(note)
        counts.setdefault(_COUNT.sub("{}", note, count=1), []).append(int(found[0]) if found else 0)
    return tuple(note.replace("{}", str(sum(numbers)), 1) for note, numbers in counts.items())
