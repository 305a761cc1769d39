"""The worst of several views, sample by sample, against a loop that tries everything on everyone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_cli.core.specs import ThreatModel
from ismn_cli.threats.worst_case import BROKEN, HOLDS, REFUSED, craft_through

THREAT = ThreatModel(eps=0.5)
N = 5


class Level(nn.Module):
    """A model that tells its attack which value to paint; the verdict knows what each value is worth."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, x: Tensor) -> Tensor:
        # The first pixel names the sample: which of them are here depends on who was broken before.
        return self.values[(x[:, 0, 0, 0] * 100).round().long()][:, None]


def paint(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    painted = x.clone()
    values = model(x)[:, 0]
    painted[:, 0, 1, 1] = values
    return painted


def worth(x: Tensor, y: Tensor) -> Tensor:
    """0.1 holds, 0.2 is refused, 0.3 is wrong."""
    return (x[:, 0, 1, 1] * 10).round().long() - 1


def images(start: list[int]) -> Tensor:
    x = torch.zeros(N, 1, 2, 2)
    x[:, 0, 0, 0] = torch.arange(N) / 100
    x[:, 0, 1, 1] = (torch.tensor(start) + 1) / 10
    return x


RANKS = st.lists(st.sampled_from([HOLDS, REFUSED, BROKEN]), min_size=N, max_size=N)
MADE = st.lists(st.sampled_from([HOLDS, REFUSED, BROKEN, None]), min_size=N, max_size=N)
"""None: the attack fails on that sample."""


@given(RANKS, st.lists(MADE, min_size=1, max_size=4))
def test_the_worst_of_all_views_is_kept(start: list[int], made: list[list[int | None]]) -> None:
    views = {
        f"view {i}": Level([float("nan") if rank is None else (rank + 1) / 10 for rank in ranks])
        for i, ranks in enumerate(made)
    }
    x, y = images(start), torch.zeros(N, dtype=torch.long)
    worst = craft_through(views, paint, x, y, THREAT, 0, worth)
    found = worth(worst.crafted.adversarial, y).tolist()
    for i in range(N):
        ran = [ranks[i] for ranks in made if ranks[i] is not None]
        if start[i] == BROKEN:
            assert found[i] == BROKEN and worst.via[i] == "" and not worst.crafted.failed[i]
            continue
        assert bool(worst.crafted.failed[i]) is (not ran)
        # A clean refusal counts too: an attacker who finds nothing worse keeps the image as it is.
        assert found[i] == max([*ran, start[i]])
    assert torch.equal(x, images(start))


def test_a_broken_sample_is_never_attacked_again() -> None:
    seen: list[list[int]] = []

    def watch(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append((x[:, 0, 0, 0] * 100).round().int().tolist())
        return paint(model, x, y)

    views = {"first": Level([0.3, 0.1, 0.2, 0.3, 0.1]), "second": Level([0.1, 0.3, 0.3, 0.3, 0.1])}
    x = images([HOLDS, HOLDS, HOLDS, BROKEN, HOLDS])
    worst = craft_through(views, watch, x, torch.zeros(N, dtype=torch.long), THREAT, 0, worth)
    assert seen == [[0, 1, 2, 4], [1, 2, 4]]
    assert worst.via == ("first", "second", "second", "", "first")
    assert worst.queries == 5 + 4 + 3
    assert worst.crafted.forwards == 4 + 3


def test_without_a_verdict_the_only_view_is_attacked_in_full() -> None:
    x = images([BROKEN] * N)
    worst = craft_through({"bare": Level([0.1] * N)}, paint, x, torch.zeros(N, dtype=torch.long), THREAT, 0)
    assert worst.via == ("bare",) * N and worst.queries == 0
    assert torch.allclose(worst.crafted.adversarial[:, 0, 1, 1], torch.full((N,), 0.1))


def test_the_notes_say_which_view_they_are_about() -> None:
    def crash(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise ValueError("no gradient here")

    x = images([HOLDS] * N)
    worst = craft_through({"route": Level([0.1] * N)}, crash, x, torch.zeros(N, dtype=torch.long), THREAT, 0, worth)
    assert worst.crafted.failed.all()
    assert worst.crafted.notes == ("route: the attack crashed on 5 samples: ValueError: no gradient here",)
