"""Small images, made up: JPEGs whose mean tells their number, and copies of CelebA with as many as a test needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ATTRIBUTES = ("Bald", "Male", "Smiling")
PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


def noise(number: int, width: int = 20, height: int = 24, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])


def save(path: Path, number: int, width: int = 20, height: int = 24, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(number, width, height, channels).save(path)
    return path


def write_folder(root: Path, counts: dict[str, int], suffix: str = ".png", channels: int = 3) -> Path:
    """Write so many images into each folder: "train/cat" or "cat"."""
    for i, (name, count) in enumerate(counts.items()):
        for j in range(count):
            save(root / name / f"{j:04d}{suffix}", 1000 * i + j, channels=channels)
    return root


def write_celeba(root: Path, partition: Sequence[int], width: int = 20, height: int = 24) -> Path:
    """Write a copy in CelebA's own layout: image i + 1 is of ``partition[i]``; attributes differ by its number."""
    names = [f"{i + 1:06d}.jpg" for i in range(len(partition))]
    for i, name in enumerate(names):
        save(root / "img_align_celeba" / name, i, width, height)
    rows = [f"{name} " + " ".join(values_of(i + 1)) for i, name in enumerate(names)]
    head = [str(len(names)), " ".join(ATTRIBUTES) + " "]
    (root / "list_attr_celeba.txt").write_text("\n".join([*head, *rows]) + "\n")
    rows = [f"{name} {part}" for name, part in zip(names, partition, strict=True)]
    (root / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    return root


def values_of(number: int) -> tuple[str, str, str]:
    """Nobody is bald, every second is male, every third smiles."""
    return "-1", " 1" if number % 2 == 0 else "-1", " 1" if number % 3 == 0 else "-1"
