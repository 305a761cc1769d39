"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from ismn_cli.core import catalogue
from ismn_cli.core.errors import UsageError
from ismn_cli.data.cifar10_files import ALL_BATCHES, find_copy
from ismn_cli.data.image_set import ImageSet


def load_dataset(
    name: str, split: str, data_dir: Path | None, limit: int | None = None, seed: int = 0
) -> ImageSet:
    """Return a split of the data set ``name``; with ``limit``, the first images of a seeded, balanced order.

    See `ImageSet.select` for the order. Raises UsageError: an unknown name or split, missing or damaged
    files, a limit below 1.
    """
    entry = catalogue.find(catalogue.DATASETS, "data set", name)
    images: ImageSet = catalogue.load(entry.load)(split, data_dir)
    return images if limit is None else images.select(limit, seed)


def dataset_at_hand(data_dir: Path | None) -> bool:
    """Return whether the whole of cifar10 is on this machine; nothing is read or downloaded."""
    try:
        return find_copy(ALL_BATCHES, data_dir) is not None
    except UsageError:
        return False
