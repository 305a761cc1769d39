"""The DDSA-style defence: its net, the sparsity rule, the training attacks and the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ismn_models.ddsa.config import DdsaConfig
from ismn_models.ddsa.nets import SparseAutoencoder
from ismn_models.ddsa.system import Ddsa, build
from ismn_models.ddsa.training import DenoisingStage
from ismn_models.ddsa.training import stages as make_stages
from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.sparsity import RunningMeanSparsity

SMALL = DdsaConfig(epochs=2, batch_size=16, pgd_steps=2, eps_max=0.2)


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def images(n: int = 64) -> Images:
    coarse = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, size=8, mode="bilinear")
    return Images((smooth * 255).to(torch.uint8), torch.arange(n) % 4)


def pipeline(seed: int = 0) -> Pipeline:
    torch.manual_seed(seed)
    return build(SMALL, Shape(4, 3, 8), TinyNet())


def stage_of(system: Pipeline, config: DdsaConfig = SMALL) -> DenoisingStage:
    (stage,) = make_stages(system, config)
    assert isinstance(stage, DenoisingStage)
    return stage


def train_epoch(stage: DenoisingStage, data: Images, epoch: int) -> list[dict[str, float]]:
    torch.manual_seed(epoch)
    stage.begin_epoch(epoch, data)
    order = torch.randperm(len(data)).split(16)
    return [stage.step(data.floats(i), data.labels[i], i, (epoch + k / len(order)) / 2) for k, i in enumerate(order)]


def test_weights_and_shapes() -> None:
    net = SparseAutoencoder()
    assert sum(p.numel() for p in net.parameters()) == 3_859_971
    x = torch.rand(2, 3, 32, 32)
    code, denoised = net.encode(x), net(x)
    assert code.shape == (2, 512)
    assert (code >= 0).all()
    assert denoised.shape == x.shape
    assert ((denoised > 0) & (denoised < 1)).all()


def test_sparsity_rule_equals_a_plain_loop() -> None:
    rule = RunningMeanSparsity(5, mu=0.1, beta=0.3)
    bias = torch.randn(5)
    wanted, mean = bias.double().numpy().copy(), np.zeros(5)
    activations = torch.rand(40, 7, 5)
    for activation in activations:
        rule.apply_to(bias, activation, lr=0.5)
        for unit in range(5):
            a = sum(float(activation[sample, unit]) for sample in range(7)) / 7
            mean[unit] = 0.999 * mean[unit] + 0.001 * a
            wanted[unit] -= 0.5 * 0.3 * (mean[unit] - 0.1)
    np.testing.assert_allclose(bias.numpy(), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rule.mean.numpy(), mean, rtol=1e-4)


def test_sparsity_rule_silences_a_loud_unit_and_wakes_a_quiet_one() -> None:
    rule = RunningMeanSparsity(2, mu=0.1, beta=1.0)
    rule.mean.copy_(torch.tensor([0.5, 0.0]))
    bias = torch.zeros(2)
    rule.apply_to(bias, torch.tensor([[0.5, 0.0]]), lr=1.0)
    assert bias[0] < 0 < bias[1]


def test_sparsity_can_be_switched_off() -> None:
    moved = {}
    for name, off in (("on", ()), ("off", ("sparsity",))):
        stage = stage_of(pipeline(), replace(SMALL, off=off, beta=1.0))  # type: ignore[arg-type]
        train_epoch(stage, images(16), 0)
        moved[name] = stage.defence.autoencoder.second.bias.detach().clone()
        assert bool(stage.sparsity.mean.any()) == (name == "on")
    assert not torch.equal(moved["on"], moved["off"])


@pytest.mark.parametrize("inner", ["classifier", "recon"])
def test_attacks_stay_in_their_ball_and_raise_what_they_maximise(inner: str) -> None:
    system = pipeline()
    stage = stage_of(system, replace(SMALL, inner=inner, pgd_steps=8))  # type: ignore[arg-type]
    x = images(40).floats()
    stage.begin_epoch(0, images(40))
    torch.manual_seed(0)
    attacked, eps = stage.attack(x)
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert ((attacked - x).abs().amax((1, 2, 3)) <= eps + 1e-6).all()
    assert 0 <= eps.min() < 0.05
    assert 0.15 < eps.max() <= 0.2
    random = (x + eps[:, None, None, None] * torch.randn_like(x).sign()).clamp(0, 1)

    @torch.no_grad()
    def objective(z: Tensor) -> float:
        if inner == "recon":
            return float((system.defence.reform(z) - x).square().mean())
        return float(nn.functional.cross_entropy(system.base(z), system.base(x).argmax(1)))

    assert objective(attacked) > objective(random)


@pytest.mark.parametrize("inner", ["classifier", "recon"])
def test_training_lowers_both_terms_and_leaves_the_base_alone(inner: str) -> None:
    system, data = pipeline(), images()
    before = system.base.state_dict()["layer.weight"].clone()
    stage = stage_of(system, replace(SMALL, inner=inner))  # type: ignore[arg-type]
    first, last = train_epoch(stage, data, 0), train_epoch(stage, data, 1)
    for term in ("mse attacked", "mse clean"):
        assert last[-1][term] < first[0][term]
    figures = stage.finish(data, images(20))
    assert set(figures) == {f"{f}, {on}" for f in ("validation mse", "accuracy") for on in ("clean", "attacked")}
    assert torch.equal(system.base.state_dict()["layer.weight"], before)
    assert not any(p.requires_grad for p in system.base.parameters())


def test_attacks_are_kept_for_refresh_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, data = stage_of(pipeline(), replace(SMALL, refresh=2)), images(32)
    crafted: list[int] = []
    attack = stage.attack
    monkeypatch.setattr(stage, "attack", lambda x: (crafted.append(len(x)), attack(x))[1])
    for epoch in range(3):
        train_epoch(stage, data, epoch)
        crafted.append(0)
    assert crafted == [16, 16, 0, 0, 16, 16, 0]


def test_a_resumed_run_gives_the_same_weights(tmp_path: Path) -> None:
    data, whole, cut, resumed = images(), pipeline(), pipeline(), pipeline(seed=9)
    stage, first = stage_of(whole), stage_of(cut)
    for epoch in range(2):
        train_epoch(stage, data, epoch)
    train_epoch(first, data, 0)
    torch.save({"state": first.state(), "weights": cut.state_dict()}, tmp_path / "checkpoint")
    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    resumed.load_state_dict(saved["weights"])
    second = stage_of(resumed)
    second.load_state(saved["state"])
    train_epoch(second, data, 1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_defence_reforms_everything_and_rejects_nothing() -> None:
    system = pipeline().eval()
    x = images(6).floats()
    decision = system.decide(x)
    assert isinstance(system.defence, Ddsa)
    assert torch.equal(decision.logits, system.base(system.defence.reform(x)))
    assert not (decision.flagged | decision.rejected).any()


def test_surrogate_has_a_gradient() -> None:
    system = pipeline().eval()
    x = images(3).floats().requires_grad_()
    for surrogate in system.defence.surrogates(system.base).values():
        (gradient,) = torch.autograd.grad(surrogate(x).logits.sum(), x)
        assert gradient.abs().amax((1, 2, 3)).min() > 0
