"""Synthetic CIFAR-10 files: full size, each image carrying its own number in its first pixels."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from ismn_cli.data import cifar10_files


def labels_of(batch: str) -> np.ndarray:
    return np.random.default_rng(len(batch) + ord(batch[-1])).integers(0, 10, 10_000).astype(np.uint8)


def pixels_of(batch: str) -> np.ndarray:
    """Images [10000, 3072] whose first four bytes are the index in the training or test set."""
    first = 0 if batch == "test_batch" else 10_000 * (int(batch[-1]) - 1)
    pixels = np.zeros((10_000, 3072), np.uint8)
    pixels[:, :4] = np.arange(first, first + 10_000, dtype="<i4").view(np.uint8).reshape(-1, 4)
    pixels[:, -5:] = np.random.default_rng(first).integers(0, 256, (10_000, 5))
    return pixels


def write_bin(root: Path, batches: tuple[str, ...] = cifar10_files.ALL_BATCHES) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True, exist_ok=True)
    for batch in batches:
        records = np.concatenate([labels_of(batch)[:, None], pixels_of(batch)], axis=1)
        records.tofile(folder / f"{batch}.bin")
    return folder


def write_py(root: Path, batches: tuple[str, ...]) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for batch in batches:
        content = {b"labels": labels_of(batch).tolist(), b"data": pixels_of(batch), b"batch_label": b"x"}
        (folder / batch).write_bytes(pickle.dumps(content, protocol=2))
    return folder
