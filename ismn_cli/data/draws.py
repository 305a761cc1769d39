"""Seeded draws by hash: the same on every machine, whatever the versions of the libraries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ismn_cli.engine.rng import derive

SEED = 2021
"""Of every split that a data set does not come with."""


def hashed_order(keys: Sequence[object], purpose: str) -> list[int]:
    """Return the positions 0..N-1 in the order of a hash of SEED, purpose and key."""
    return sorted(range(len(keys)), key=lambda i: derive(SEED, purpose, keys[i]))


def split_by_hash(
    labels: Sequence[int], keys: Sequence[object], parts: Sequence[str] = ("validation", "test")
) -> dict[str, list[int]]:
    """Divide the positions 0..N-1: a tenth of each class for each of ``parts``, the rest for "train".

    A tenth is one image at least. Every part is in ascending order.
    """
    counts = {label: max(1, round(count / 10)) for label, count in Counter(labels).items()}
    taken = dict.fromkeys(counts, 0)
    found: dict[str, list[int]] = {name: [] for name in ("train", *parts)}
    for i in hashed_order(keys, "split"):
        rank = taken[labels[i]] // counts[labels[i]]
        taken[labels[i]] += 1
        found[parts[rank] if rank < len(parts) else "train"].append(i)
    return {name: sorted(positions) for name, positions in found.items()}


def too_few(labels: Sequence[int], parts: Sequence[str]) -> list[int]:
    """Return the classes that have fewer images than `split_by_hash` needs: one for train and for each part."""
    return sorted(label for label, count in Counter(labels).items() if count <= len(parts))
