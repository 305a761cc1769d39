"""One image's draws hold for every image, and only where an attack draws for images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ismn_cli.engine.draws import Common, as_drawn

SHAPE = (5, 3, 4, 4)
DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(SHAPE),
    "rand, sizes one by one": lambda: torch.rand(*SHAPE),
    "rand, by name": lambda: torch.rand(size=SHAPE),
    "randn": lambda: torch.randn(torch.Size(SHAPE)),
    "randint": lambda: torch.randint(9, SHAPE),
    "randint, from": lambda: torch.randint(2, 9, SHAPE),
    "rand_like": lambda: torch.rand_like(torch.zeros(SHAPE)),
    "randn_like": lambda: torch.randn_like(torch.zeros(SHAPE)),
    "uniform_": lambda: torch.zeros(SHAPE).uniform_(-1, 1),
    "normal_": lambda: torch.empty(SHAPE).normal_(),
    "noise on logits": lambda: torch.randn_like(torch.zeros(5, 10)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_image_meets_the_draw_of_an_image_alone(draw: Callable[[], Tensor]) -> None:
    torch.manual_seed(1)
    with Common():
        drawn = draw()
    assert all(torch.equal(row, drawn[0]) for row in drawn)
    assert len(drawn[0].unique()) > 1


def test_the_draws_are_those_of_a_batch_of_one() -> None:
    torch.manual_seed(2)
    alone = [torch.rand(1, 3, 4, 4), torch.rand(3, 1, 1), torch.zeros(1, 3, 4, 4).uniform_(-1, 1)]
    torch.manual_seed(2)
    with Common():
        together = [torch.rand(7, 3, 4, 4), torch.rand(3, 1, 1), torch.zeros(7, 3, 4, 4).uniform_(-1, 1)]
    assert all(torch.equal(one[0], many[0]) for one, many in zip(alone, together, strict=True))


def test_draws_for_no_image_and_those_of_a_system_stay_as_they_are() -> None:
    torch.manual_seed(3)
    plain = [torch.rand(5), torch.randint(9, (5,)), torch.rand(5, 2, 2), torch.rand(SHAPE)]
    torch.manual_seed(3)
    with Common():
        drawn = [torch.rand(5), torch.randint(9, (5,)), torch.rand(5, 2, 2)]
        with as_drawn():
            drawn.append(torch.rand(SHAPE))
    assert all(torch.equal(a, b) for a, b in zip(plain, drawn, strict=True))
