"""What every system owes an attacker: surrogates that say what it decides, with gradients that can be used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_systems import BUILDERS, images, small_system
from torch import Tensor

from ismn_cli.core.catalogue import SYSTEMS
from ismn_models.pipeline import Decision, Pipeline, Reading

EXPECTATIONS = {"pack"}
"""Surrogates that average over a system's draws: no one decision is theirs."""
DETECTING = [name for name in BUILDERS if name.startswith(("magnet", "ismn", "prn"))]
SEEDS = st.integers(0, 2**32 - 1)
some = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decided(system: Pipeline, x: Tensor, seed: int) -> Decision:
    torch.manual_seed(seed)
    return system.decide(x)


def looked(system: Pipeline, route: str, x: Tensor, seed: int) -> Reading:
    torch.manual_seed(seed)
    return system.surrogates()[route].look(x)


def routes(system: Pipeline) -> list[str]:
    return [route for route in system.surrogates() if route not in EXPECTATIONS]


def test_every_system_is_here_in_small() -> None:
    assert {name for name, entry in SYSTEMS.items() if entry.alter is None} <= set(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
@some
@given(seed=SEEDS)
def test_a_margin_says_what_is_flagged(name: str, seed: int) -> None:
    system, x = small_system(name, seed), images(30, seed + 1).floats()
    flagged = decided(system, x, seed).flagged
    margins = [looked(system, route, x, seed).margin for route in routes(system)]
    for margin in margins:
        if margin is not None:
            assert torch.equal(margin >= 0, flagged)
    assert any(margin is not None for margin in margins) == (name in DETECTING)


@pytest.mark.parametrize("name", DETECTING)
def test_the_systems_here_show_both_verdicts(name: str) -> None:
    flagged = small_system(name).decide(images(40).floats()).flagged
    assert 0 < flagged.sum() < len(flagged)


@pytest.mark.parametrize("name", BUILDERS)
@some
@given(seed=SEEDS)
def test_a_surrogate_answers_as_the_system_does(name: str, seed: int) -> None:
    system, x = small_system(name, seed), images(12, seed + 1).floats()
    decision = decided(system, x, seed)
    routing = system.defence.policy == "route"
    for route in ["clean-route"] if routing else routes(system):
        logits = looked(system, route, x, seed).logits
        same = ~decision.flagged if routing else torch.ones_like(decision.flagged)
        torch.testing.assert_close(logits[same], decision.logits[same], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_image_gets_a_finite_gradient_that_is_not_zero(name: str) -> None:
    system, x = small_system(name), images(6, seed=3).floats()
    for route, surrogate in system.surrogates().items():
        point = x.clone().requires_grad_()
        reading = surrogate.look(point)
        weights = torch.linspace(-1, 2, reading.logits.shape[1])
        outputs = {"logits": reading.logits @ weights, "margin": reading.margin}
        for what, output in outputs.items():
            if output is None:
                continue
            (gradient,) = torch.autograd.grad(output.sum(), point, retain_graph=True)
            assert gradient.isfinite().all(), (route, what)
            assert gradient.abs().amax((1, 2, 3)).min() > 0, (route, what)


@pytest.mark.parametrize("name", BUILDERS)
def test_surrogates_leave_the_system_as_it_was(name: str) -> None:
    system, x = small_system(name), images(4).floats()
    before = {key: value.clone() for key, value in system.state_dict().items()}
    for surrogate in system.surrogates().values():
        assert not surrogate.training
        surrogate(x)
    assert all(torch.equal(value, system.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["jpeg", "sign-decoder", "median"])
def test_the_identity_carries_the_classifiers_own_gradient(name: str) -> None:
    """BPDA: exact forward, and the gradient that the classifier has at the reformed image."""
    system, x = small_system(name), images(5).floats().requires_grad_()
    (through,) = torch.autograd.grad(system.surrogates()["bpda"](x)[:, 0].sum(), x)
    reformed = system.defence.reform(x.detach()).requires_grad_()
    (wanted,) = torch.autograd.grad(system.base(reformed)[:, 0].sum(), reformed)
    torch.testing.assert_close(through, wanted, atol=1e-5, rtol=1e-4)


def test_the_medians_own_gradient_agrees_with_small_steps() -> None:
    """Pixels differ by more than the step, so no window changes its median: the derivative is exact."""
    system = small_system("median").double()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(3 * 16 * 16, generator=generator).double()
    x = (order / order.numel()).view(1, 3, 16, 16).requires_grad_()
    read = system.surrogates()["reformed"]
    (gradient,) = torch.autograd.grad(read(x)[0, 0], x)
    for pixel in torch.randint(3 * 16 * 16, (20,), generator=generator):
        step = torch.zeros_like(x)
        step.view(-1)[pixel] = 1e-6
        slope = (read(x + step)[0, 0] - read(x - step)[0, 0]) / 2e-6
        assert slope.item() == pytest.approx(gradient.view(-1)[pixel].item(), abs=1e-6)
    assert (gradient == 0).any() and (gradient != 0).any()
