"""The universal perturbation: one for all, as good as it can be on toys, past detectors, and out of the audit's way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.audit.attack_checks import attack_findings
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_models.pipeline import Reading, Surrogate

SHAPE, PIXELS = (3, 4, 4), 48


class Linear(nn.Module):
    """Logits W (x - 1/2)."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(classes, PIXELS, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (x - 0.5).flatten(1) @ self.weight.T
        return logits


def images(n: int, seed: int = 1, low: float = 0.3, high: float = 0.7) -> Tensor:
    return low + (high - low) * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def uap(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, eps: float, **params: object) -> Crafted:
    spec = resolve_params("uap", ThreatModel(norm=norm, eps=eps), params)  # type: ignore[arg-type]
    return craft_batch(model, make_attack(spec, 3), x, y, spec.threat, seed=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(list(Norm)), st.floats(0.01, 0.45), st.integers(2, 9))
def test_one_perturbation_for_all_images_clipped_to_the_box(seed: int, norm: Norm, eps: float, n: int) -> None:
    x = images(n, seed, -0.5, 1.5).clamp(0, 1)
    x[-1] = 0.5  # an image that nothing clips shows the perturbation itself
    model = Linear(3, seed)
    adversarial = uap(model, x, model(x).argmax(1), norm, eps, steps=5).adversarial
    delta = adversarial[-1] - x[-1]
    torch.testing.assert_close(adversarial, (x + delta).clamp(0, 1), atol=2e-6, rtol=0)
    assert (delta.abs().amax() if norm is Norm.LINF else delta.norm()) <= eps + 1e-6


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.01), (Norm.L2, 0.05)])
def test_on_a_linear_classifier_it_is_the_best_there_is(norm: Norm, eps: float) -> None:
    """Of two classes one perturbation can break one: the best breaks all of the larger one within its reach."""
    model, x = Linear(2), images(300)
    y = model(x).argmax(1)
    x, y = x[(y == 0) | (torch.arange(300) % 4 == 0)], y[(y == 0) | (torch.arange(300) % 4 == 0)]
    gap = model(x)[:, 0] - model(x)[:, 1]
    reach = eps * (model.weight[0] - model.weight[1]).norm(p=1 if norm is Norm.LINF else 2)
    exact = int(((gap > 0) & (gap < reach)).sum())
    assert 30 < exact < int((y == 0).sum()) - 10
    crafted = uap(model, x, y, norm, eps)
    assert exact - 1 <= int((model(crafted.adversarial).argmax(1) != y).sum()) <= exact


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.01), (Norm.L2, 0.05)])
def test_of_one_image_it_is_an_attack_like_others(norm: Norm, eps: float) -> None:
    model, x = Linear(2), images(40)
    y = model(x).argmax(1)
    reach = eps * (model.weight[0] - model.weight[1]).norm(p=1 if norm is Norm.LINF else 2)
    gap = (model(x)[:, 0] - model(x)[:, 1]).abs()
    clear = (gap - reach).abs() > 1e-3
    broken = [model(uap(model, x[i, None], y[i, None], norm, eps).adversarial).argmax(1) != y[i] for i in range(40)]
    assert torch.equal(torch.cat(broken)[clear], (gap < reach)[clear])
    assert 0 < (gap < reach).sum() < 40


class Counting(nn.Module):
    """Remembers how many of the images shown were answered wrong."""

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model, self.y, self.seen = model, y, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        self.seen.append(int((logits.argmax(1)[: len(self.y)] != self.y).sum()))
        return logits


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.05), (Norm.L2, 0.5)])
def test_the_best_of_all_passed_is_kept_and_the_cost_is_as_stated(norm: Norm, eps: float, victim) -> None:
    overshot = 0
    for steps in range(2, 12):
        counting = Counting(victim.net, victim.y)
        crafted = uap(counting, victim.x, victim.y, norm, eps, steps=steps, alpha="4*eps")  # it goes to and fro
        best = max(counting.seen)
        assert int((victim.net(crafted.adversarial).argmax(1) != victim.y).sum()) == best
        assert (crafted.forwards, crafted.backwards) == ((steps + 1) * len(victim.x), steps * len(victim.x))
        overshot += counting.seen[-1] < best
    assert overshot


def test_a_detector_is_fooled_at_the_same_time() -> None:
    """The logits want the first channel brighter; the detector wants the others to make up for it."""

    def read(x: Tensor) -> Reading:
        bright = x.mean((2, 3))
        wrong = 20 * (bright[:, 0] - 0.55)
        return Reading(torch.stack([-wrong, wrong], 1), bright.sum(1) - 1.53)

    x, y = 0.5 + 0.01 * images(6), torch.zeros(6, dtype=torch.long)
    crafted = uap(Surrogate(nn.Identity(), read), x, y, Norm.LINF, 0.1)
    reading = read(crafted.adversarial)
    assert reading.margin is not None
    assert (reading.logits.argmax(1) == 1).all() and (reading.margin < 0).all()
    assert crafted.notes == ()


def test_what_gives_no_gradient_is_said() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :3]

    x, y = images(4), torch.zeros(4, dtype=torch.long)
    assert uap(Flat(), x, y, Norm.LINF, 0.1).notes == ("zero gradient on 4 samples (uap)",)
    blind = uap(Rounded(), x, y, Norm.LINF, 0.1)
    assert blind.failed.all() and "needs gradients" in blind.notes[0]


def test_checks_of_attacks_on_single_images_are_not_asked_of_it(victim) -> None:
    asked = {
        method: list(
            attack_findings(victim.net, resolve_params(method, ThreatModel(eps=0.0), {}), victim.x, victim.y, 5, "net")
        )
        for method in ("uap", "pgd")
    }
    assert asked["uap"] == [] and asked["pgd"]
