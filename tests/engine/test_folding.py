"""A net without its batch normalisations answers as before; where it would not, it keeps them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_cli.engine.folding import folded
from ismn_models.classifiers.resnet import resnet18, wide_resnet


def learnt(net: nn.Module) -> nn.Module:
    """Return ``net`` in eval mode, its normalisations as if trained."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            for value, low in ((module.running_mean, -1.0), (module.running_var, 0.5), (module.bias, -1.0)):
                value.data.uniform_(low, 2.0)
            module.weight.data.uniform_(-2, 2)
    return net.eval()


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize(
    ("made", "left"), [(resnet18, 0), (lambda: wide_resnet(depth=10, widen=1), 4)], ids=["resnet18", "pre-activation"]
)
def test_real_nets(made: Callable[[], nn.Module], left: int) -> None:
    net, x = learnt(made()), torch.rand(4, 3, 16, 16)
    before = copy.deepcopy(net.state_dict())
    light = folded(net, x)
    assert norms(net) and norms(light) == left
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    wanted, found = net(leaves[0]), light(leaves[1])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    asked = zip((wanted, found), leaves, strict=True)
    slopes = [torch.autograd.grad(logits.logsumexp(1).sum(), leaf)[0] for logits, leaf in asked]
    # Not the same everywhere: an activation may lie within rounding of a ReLU's kink.
    assert bool((nn.functional.cosine_similarity(*(slope.flatten(1) for slope in slopes)) > 0.999).all())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in light.modules())


class Stem(nn.Module):
    """A convolution and a normalisation, and between or besides them what a test says."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm, self.out = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.way == "relu in place":
            h = h.relu_()
        h, kept = self.norm(h), h
        if self.way == "both used":
            h = h + kept
        if self.way == "norm twice":
            h = self.norm(h)
        if self.way == "convolution twice":
            h = self.conv(h)
        if self.way == "dropout left on":
            h = nn.functional.dropout(h)
        logits: Tensor = self.out(h.flatten(1))
        return logits


@pytest.mark.parametrize(
    ("way", "left"),
    [
        ("", 0),
        ("dropout left on", 0),
        ("relu in place", 1),
        ("both used", 1),
        ("norm twice", 1),
        ("convolution twice", 1),
    ],
)
@given(seed=st.integers(0, 2**31))
def test_what_happens_between_or_besides_them(way: str, left: int, seed: int) -> None:
    net, x = learnt(Stem(way)), torch.rand(3, 3, 8, 8)
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    light = folded(net, x)
    assert torch.equal(torch.get_rng_state(), state), "an attack's draws would depend on when it was folded"
    assert norms(light) == left
    answers = []
    for model in (net, light):
        torch.manual_seed(seed)
        answers.append(model(x))
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-4, atol=1e-4)


def _batch_statistics(net: Stem) -> None:
    net.norm.train()


def _no_statistics(net: Stem) -> None:
    net.norm = nn.BatchNorm2d(3, track_running_stats=False)


def _a_hook(net: Stem) -> None:
    net.norm.register_forward_pre_hook(lambda module, given: (given[0].relu(),))


def _weights_made_from_others(net: Stem) -> None:
    nn.utils.parametrizations.spectral_norm(net.conv)


@pytest.mark.parametrize("change", [_batch_statistics, _no_statistics, _a_hook, _weights_made_from_others])
def test_what_is_not_fixed_is_left(change: Callable[[Stem], None]) -> None:
    net = Stem("")
    learnt(net)
    change(net)
    assert norms(folded(net, torch.rand(2, 3, 8, 8))) == 1
