"""Layers that see the batch, batch normalisation and dropout, where several processes share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from ismn_models.parallel import drawn, reduce_sum, share, shared, sized

Forward = Callable[[Any, Tensor], Tensor]
DROPOUTS = (nn.Dropout.forward, nn.Dropout1d.forward, nn.Dropout2d.forward, nn.Dropout3d.forward)


@contextmanager
def joint_layers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let batch normalisation and dropout in ``modules`` see the whole batch, while a step is shared and they train.

    Nothing of the modules changes but what they do: names, tensors and classes stay, so that they are saved as ever.
    """
    replaced: list[nn.Module] = []
    for module in {m for outer in modules for m in outer.modules()}:
        joint = _joint(module)
        if joint is not None:
            module.forward = _while_shared(module, joint)
            replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _joint(module: nn.Module) -> Forward | None:
    # Of the very layers only: what inherits from them does something else besides.
    own = type(module).forward
    if own is _BatchNorm.forward:
        return _normalise
    return _drop if own in DROPOUTS else None


def _while_shared(module: nn.Module, joint: Forward) -> Callable[[Tensor], Tensor]:
    alone: Callable[[Tensor], Tensor] = module.forward

    def forward(x: Tensor) -> Tensor:
        return joint(module, x) if module.training and shared() else alone(x)

    return forward


def _normalise(module: _BatchNorm, x: Tensor) -> Tensor:
    """`torch.nn.SyncBatchNorm` on any device; that one refuses the CPU."""
    inner = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [axis for axis in range(x.ndim) if axis != 1]
    counts = inner.new_tensor(share() > 0)
    count = counts * (x.numel() // x.shape[1])
    found = _total(torch.cat([inner.sum(axes) * counts, count[None]]))
    n, average = found[-1].detach(), found[:-1] / found[-1].detach()
    centred = inner - _along(average, x)
    variance = _total(centred.square().sum(axes) * counts) / n
    _follow(module, average.detach(), variance.detach() * n / (n - 1))
    result = centred * _along((variance + module.eps).rsqrt(), x)
    if module.affine:
        result = result * _along(module.weight, x) + _along(module.bias, x)
    return result.to(x.dtype)


def _total(value: Tensor) -> Tensor:
    found: Tensor = _Sum.apply(value)
    return found


def _along(channels: Tensor, x: Tensor) -> Tensor:
    return channels.view(1, -1, *(1,) * (x.ndim - 2))


@torch.no_grad()
def _follow(module: _BatchNorm, average: Tensor, variance: Tensor) -> None:
    if module.running_mean is None or module.running_var is None or module.num_batches_tracked is None:
        return
    module.num_batches_tracked.add_(1)
    factor = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
    module.running_mean.lerp_(average, factor)
    module.running_var.lerp_(variance, factor)


def _drop(module: nn.Module, x: Tensor) -> Tensor:
    # What dropout does to ones is what it multiplies anything by.
    plain = type(module).forward
    return x * drawn(lambda n: plain(module, torch.ones_like(sized(x, n))), len(x))


class _Sum(torch.autograd.Function):
    """The sum over the processes, with a gradient: what each makes of it concerns the parts of all."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        found = value.clone()
        reduce_sum(found)
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        found = gradients[0].contiguous().clone()
        reduce_sum(found)
        return found
