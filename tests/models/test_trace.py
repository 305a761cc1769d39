"""The way of an input through a system: its last picture is the one that is answered on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_systems import BUILDERS, images, small_system
from torch import Tensor

from ismn_models.ismn import ablations
from ismn_models.pipeline import Classify, Defence, Pipeline, Waypoint

some = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**32 - 1)
ABLATIONS = (ablations.no_detector, ablations.no_loop, ablations.no_mapping, ablations.no_target)
ROUTING = ("ismn", "prn")
WITHOUT = {"none", "at", "trades", "distillation", "lad", "magnet, no reformer"}
"""Systems that classify the input itself. All of them but MagNet's count that as one pass in `Decision.loops`."""


def traced(system: Pipeline, x: Tensor, seed: int) -> list[Waypoint]:
    torch.manual_seed(seed)
    with torch.no_grad():
        return system.defence.trace(x, system.classifier)


def ends(x: Tensor, way: list[Waypoint]) -> Tensor:
    """Return the last picture of each input's way."""
    last = x.clone()
    for point in way:
        assert point.images.shape == x.shape and point.taken.shape == (len(x),) and point.taken.dtype == torch.bool
        last[point.taken] = point.images[point.taken]
    return last


def check(system: Pipeline, x: Tensor, seed: int) -> list[Waypoint]:
    way = traced(system, x, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        decision = system.decide(x)
        answer = system.classifier(ends(x, way))
    torch.testing.assert_close(answer, decision.logits, rtol=0, atol=0)
    made = [point.taken.long() for point in way if point.name != "least suspicious"]
    if way:
        assert torch.equal(torch.stack(made).sum(0), decision.loops)
    return way


@pytest.mark.parametrize("name", BUILDERS)
@some
@given(seed=SEEDS)
def test_the_last_picture_gives_the_decisions_logits(name: str, seed: int) -> None:
    system = small_system(name, seed)
    way = check(system, images(10, seed + 1).floats(), seed)
    assert (not way) == (name in WITHOUT) or name in ROUTING


@pytest.mark.parametrize("take_out", ABLATIONS)
@some
@given(seed=SEEDS)
def test_so_it_does_with_a_part_of_ismn_taken_out(take_out: object, seed: int) -> None:
    check(take_out(small_system("ismn", seed)), images(10, seed + 1).floats(), seed)


@some
@given(seed=SEEDS)
def test_ismn_goes_back_to_the_least_suspicious_of_its_regenerations(seed: int) -> None:
    """With no fixed point in reach the loop runs to its end, and the lowest score seen decides."""
    system, x = small_system("ismn", seed), images(12, seed + 1).floats()
    system.defence.fixed_point.fill_(-1.0)
    way = check(system, x, seed)
    if not way:
        return
    rounds = [point for point in way if point.name.startswith("regenerated")]
    assert [point.name for point in rounds] == [f"regenerated {k + 1}" for k in range(system.defence.config.loops)]
    scores = torch.stack([point.score for point in rounds])
    taken, best = rounds[0].taken, scores.argmin(0)
    chosen = torch.stack([point.images for point in rounds])[best, torch.arange(len(x))]
    assert torch.equal(ends(x, way)[taken], chosen[taken])
    back = way[-1].taken if way[-1].name == "least suspicious" else torch.zeros_like(taken)
    assert torch.equal(back, taken & (best < len(rounds) - 1))


def test_a_silent_detector_leaves_ismn_and_prn_without_pictures_of_an_input() -> None:
    for name in ROUTING:
        system = small_system(name)
        system.defence.threshold.fill_(float("inf"))
        assert not any(point.taken.any() for point in traced(system, images(6).floats(), 0))


class Jittery(Defence):
    """Draws in its score and in its reformer, and routes."""

    policy, randomised = "route", True

    def reform(self, x: Tensor) -> Tensor:
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return torch.rand(len(x))


@some
@given(seed=SEEDS)
def test_a_defence_of_ones_own_is_traced_as_it_decides(seed: int) -> None:
    system = Pipeline(small_system("none").base, Jittery())
    system.defence.threshold.fill_(0.5)
    assert check(system, images(10).floats(), seed)
