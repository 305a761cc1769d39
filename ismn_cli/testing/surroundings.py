"""What strangers' code may not change: a module, tensors it is given, torch's settings, the random generators."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ismn_cli.engine.guard import Guard
from ismn_cli.engine.rng import isolated


class Disturbed(NamedTuple):
    """What a run changed, in words; it is put back."""

    settings: list[str]
    """Of torch."""
    module: list[str]
    """Of the module: weights, modes, gradients, hooks."""


def disturbed(module: nn.Module, run: Callable[[], object]) -> Disturbed:
    """Return what ``run`` changes."""
    guard = Guard(module)
    run()
    settings = guard.settings.restored()
    return Disturbed([f"it changed torch's {name}" for name in settings], [f"it {told}" for told in guard.restored()])


def reseeded(run: Callable[[], object]) -> list[str]:
    """Return the global random generators that ``run`` seeds: theirs is the same state whatever it was before."""
    first, second = _drawn_after(run, 1), _drawn_after(run, 2)
    return [f"it seeds {name}'s global random generator" for name in first if first[name] == second[name]]


def _drawn_after(run: Callable[[], object], seed: int) -> dict[str, float]:
    with isolated(seed):
        run()
        return {"torch": float(torch.rand(())), "NumPy": float(np.random.rand()), "Python": random.random()}


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in type, shape and every number; NaN equals itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
