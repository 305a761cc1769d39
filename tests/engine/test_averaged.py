from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.averaged import Averaged
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import craft_batch
from ismn_models.pipeline import Reading, Surrogate


class Noisy(nn.Module):
    """Logits and a margin that depend on a draw for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x + 0.3 * torch.randn_like(x))

    def read(self, x: Tensor) -> Reading:
        logits = self(x)
        return Reading(logits, logits.square().sum(1) - 1)


X = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 4


@pytest.fixture
def noisy() -> Noisy:
    torch.manual_seed(0)
    return Noisy().eval()


def test_a_reading_is_the_mean_of_as_many(noisy: Noisy) -> None:
    surrogate = Surrogate(noisy, noisy.read)
    torch.manual_seed(3)
    one_by_one = [surrogate.look(X) for _ in range(5)]
    torch.manual_seed(3)
    logits, margin = Averaged(surrogate, 5).look(X)
    torch.testing.assert_close(logits, sum(r.logits for r in one_by_one) / 5)
    torch.testing.assert_close(margin, sum(r.margin for r in one_by_one) / 5)
    torch.manual_seed(3)
    torch.testing.assert_close(Averaged(surrogate, 5)(X), logits)


def test_a_plain_module_has_no_margin(noisy: Noisy) -> None:
    reading = Averaged(noisy, 3).look(X)
    assert reading.margin is None
    assert reading.logits.shape == (6, 4)
    assert noisy.calls == 3


def test_its_spread_falls_with_the_number_of_draws(noisy: Noisy) -> None:
    def spread(draws: int) -> float:
        model = Averaged(noisy, draws)
        return torch.stack([model(X) for _ in range(200)]).var(0).mean().item()

    assert spread(1) / spread(16) == pytest.approx(16, rel=0.25)


def test_the_cross_entropy_is_that_of_mean_log_probabilities(noisy: Noisy) -> None:
    """What the docstring says of the choice between logits and log-probabilities."""
    point = X.clone().requires_grad_()
    torch.manual_seed(1)
    draws = [noisy(point) for _ in range(4)]
    by_logits = torch.stack(draws).mean(0)
    by_probabilities = torch.stack([d.log_softmax(1) for d in draws]).mean(0)
    losses = [nn.functional.cross_entropy(z, Y) for z in (by_logits, by_probabilities)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, point, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(*gradients)


def test_every_draw_is_counted(noisy: Noisy) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        point = x[:4].requires_grad_()
        logits, margin = model.look(point)
        torch.autograd.grad(logits.sum() + margin.sum(), point)
        with torch.no_grad():
            model(x)
        return x

    averaged = Averaged(Surrogate(noisy, noisy.read), 7)
    crafted = craft_batch(averaged, attack, X, Y, ThreatModel(eps=0.1), 0)
    assert crafted.forwards == 7 * (4 + 6)
    assert crafted.backwards == 7 * (4 + 4)
    assert noisy.calls == 14
    twice = Counted(Averaged(averaged, 2))
    twice(X)
    assert twice.forwards == 14 * 6


def test_a_strangers_cost_is_not_believed(noisy: Noisy) -> None:
    noisy.cost = "three euros"
    counted = Counted(noisy)
    counted(X)
    assert counted.forwards == 6


def test_no_draws_are_refused(noisy: Noisy) -> None:
    with pytest.raises(UsageError, match="0 draws") as caught:
        Averaged(noisy, 0)
    assert "--eot" in caught.value.hint


def test_it_lets_go_of_its_model(noisy: Noisy) -> None:
    gc.disable()
    try:
        model = Averaged(Surrogate(noisy, noisy.read), 2)
        alive = weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()
