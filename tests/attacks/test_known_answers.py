"""Toy systems whose robust accuracy is known beforehand: the attacks have to find it, no more and no less."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.averaged import Averaged
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_models.pipeline import Classify, Defence, Pipeline, Reading, Surrogate

SHAPE = (3, 4, 4)
PIXELS = 48


def craft(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, classes: int, **params: object
) -> Crafted:
    spec = resolve_params("pgd-ensemble", threat, params)
    return craft_batch(model, make_attack(spec, classes), x, y, threat, seed=0)


class Linear(nn.Module):
    """Logits W (x - 1/2), with W drawn at random."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(classes, PIXELS, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def images(n: int, seed: int = 1) -> Tensor:
    """Return images [n, ...] with all pixels within 0.2 of 1/2: no perturbation up to 0.3 meets the box."""
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("norm", "eps", "classes"), [(Norm.LINF, 0.03, 10), (Norm.L2, 0.15, 10), (Norm.LINF, 0.05, 2)]
)
def test_a_linear_classifier_has_exactly_this_robust_accuracy(norm: Norm, eps: float, classes: int) -> None:
    """Distance to class j: (z_y - z_j) over the dual norm of w_y - w_j, L1 for L-inf and L2 for L2."""
    model, x = Linear(classes), images(1000)
    y = model(x).argmax(1)
    between = model.weight[y][:, None] - model.weight[None]
    gap = model(x).gather(1, y[:, None]) - model(x)
    distance = gap / between.norm(p=1 if norm is Norm.LINF else 2, dim=2)
    distance[torch.arange(1000), y] = torch.inf
    exact = (distance.amin(1) > eps).float().mean()
    assert 0.2 < exact < 0.8
    crafted = craft(model, x, y, ThreatModel(norm=norm, eps=eps), classes)
    found = (model(crafted.adversarial).argmax(1) == y).float().mean()
    assert exact <= found <= exact + 0.005
    assert not crafted.failed.any()
    assert crafted.notes == ()


class Rounding(Defence):
    """Pixels rounded to five grey levels."""

    differentiable = False

    def reform(self, x: Tensor) -> Tensor:
        return (4 * x).round() / 4


def test_rounding_hides_gradients_and_bpda_finds_them() -> None:
    system, x = Pipeline(Linear(5), Rounding()), images(200)
    y = system(x).argmax(1)
    threat = ThreatModel(eps=0.3)
    plain = craft(system, x, y, threat, 5, random_start=False)
    assert torch.equal(system(plain.adversarial).argmax(1), y)
    assert any(note.startswith("zero gradient on 200 samples") for note in plain.notes)
    ((name, surrogate),) = system.surrogates().items()
    assert name == "bpda"
    through = craft(surrogate, x, y, threat, 5)
    assert not (system(through.adversarial).argmax(1) == y).any()
    assert through.notes == ()
