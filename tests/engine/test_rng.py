from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.engine.rng import derive, isolated, seed_everything


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_isolated_restores_every_generator(seed: int, outer: int) -> None:
    seed_everything(outer)
    expected = [_draw(), _draw()]
    seed_everything(outer)
    before = _draw()
    with isolated(seed):
        inside = _draw()
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
    assert [before, _draw()] == expected
    with isolated(seed):
        assert _draw() == inside


def test_isolated_restores_after_an_error() -> None:
    seed_everything(1)
    expected = _draw()
    seed_everything(1)
    with pytest.raises(ValueError, match="x"), isolated(5):
        raise ValueError("x")
    assert _draw() == expected


@given(st.lists(st.integers() | st.text(alphabet="abc12 "), min_size=1, max_size=4))
def test_derive_depends_on_every_part(parts: list[int | str]) -> None:
    seed = derive(*parts)
    assert 0 <= seed < 2**63
    assert derive(*parts) == seed
    for i in range(len(parts)):
        changed = [*parts[:i], f"{parts[i]}x", *parts[i + 1 :]]
        assert derive(*changed) != seed


def test_derive_keeps_parts_apart() -> None:
    assert derive("ab", "c") != derive("a", "bc")
    assert derive(1, 23) != derive(12, 3)
