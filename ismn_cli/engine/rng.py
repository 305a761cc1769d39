"""Randomness: seeds derived from what they are for, and the global generators kept out of strangers' hands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part: derive(seed, "pgd", batch) is a stream of its own."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a block on generators seeded with ``seed`` and put the callers' states back afterwards.

    Third-party attacks draw from, and some reseed, the global generators (torchattacks' APGD and Square).
    """
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        seed_everything(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
