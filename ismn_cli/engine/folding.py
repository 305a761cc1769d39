"""Batch normalisation taken up by the convolution before it: in eval mode the two together are one convolution."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SAME = 1e-4
"""Share of the range of a net's answers by which folding may move them. Rounding moves those of ResNet-18 by 1e-6."""


def folded(net: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of ``net`` without the batch normalisations that can be folded away.

    Which convolution feeds which normalisation is seen in a pass on noise of the shape of an image of x [N, C, H, W].
    What a net's code does between the two, or besides, shows in another pass: where that gives another answer, they
    are left as they were.
    """
    with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.no_grad():
        torch.manual_seed(0)
        noise = torch.rand_like(x[:1])
        light = copy.deepcopy(net)
        wanted, names = _answer(light, noise), {module: name for name, module in light.named_modules()}
        for conv, norm in _pairs(light, noise):
            light.set_submodule(names[norm], nn.Identity())
            light.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
            if not _same(_answer(light, noise), wanted):
                light.set_submodule(names[norm], norm)
                light.set_submodule(names[conv], conv)
        return light


def _pairs(net: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions whose output goes into a normalisation, both asked once in a pass on x."""
    made, calls = list[tuple[nn.Module, Tensor]](), list[nn.Module]()
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: object, out: Tensor) -> None:
        made.append((module, out))
        calls.append(module)

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.append(module)
        pairs.extend((conv, module) for conv, out in made if out is given[0])  # type: ignore[misc]

    plain = [module for module in net.modules() if _plain(module)]
    handles = [
        module.register_forward_hook(after)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(before)
        for module in plain
    ]
    _answer(net, x)
    for handle in handles:
        handle.remove()
    return [pair for pair in pairs if all(calls.count(module) == 1 for module in pair)]


def _plain(module: nn.Module) -> bool:
    """Return whether it is a convolution, or a normalisation by what it has learnt, of torch's own making."""
    if module.training or module._forward_hooks or module._forward_pre_hooks:
        return False
    return type(module) is nn.Conv2d or (type(module) is nn.BatchNorm2d and module.running_mean is not None)


def _answer(net: nn.Module, x: Tensor) -> Tensor:
    """Return what ``net`` answers, with the same draws each time."""
    torch.manual_seed(1)
    logits: Tensor = net(x)
    return logits


def _same(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=0, atol=SAME * float(wanted.max() - wanted.min()), equal_nan=True)
