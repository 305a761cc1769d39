"""Images and examples of them, for the tests of examples in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ismn_cli.core.specs import ThreatModel
from ismn_cli.data.example_checks import Checked, check_examples
from ismn_cli.data.example_files import read_examples
from ismn_cli.data.image_set import ImageSet

N, SHAPE = 12, (3, 4, 4)
THREAT = ThreatModel(eps=0.1)


def images(n: int = N, shape: tuple[int, ...] = SHAPE) -> ImageSet:
    """Return images whose ids are not their positions."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return ImageSet(
        pixels, torch.arange(n) % 3, name="made", split="test", ids=torch.arange(n) * 7 % 101, classes=("a", "b", "c"),
        data_hash="0" * 64, total=n,
    )  # fmt: skip


def moved(found: ImageSet, size: float = 0.1) -> np.ndarray:
    """Return examples in the corners of the ball."""
    signs = np.where(np.random.default_rng(1).random(found.pixels.shape) < 0.5, -size, size)
    return np.clip(found.floats().numpy() + signs, 0, 1).astype(np.float32)


def checked(place: Path, found: ImageSet, **options: Any) -> Checked:
    threat = options.pop("threat", THREAT)
    chosen = {"limited": False, "seed": 0, "drop": False} | options
    return check_examples(read_examples(place), found, threat, **chosen)
