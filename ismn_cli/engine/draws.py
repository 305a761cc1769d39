"""Common random numbers: every image meets the same draws, whatever stands beside it in the batch.

An attack draws for a whole batch at once, so that an image's fate would hang on its neighbours. Here what it draws
for one image holds for all of them: outcomes do not depend on the batch, and two defences are compared on the same
draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SIZED = {torch.rand, torch.randn, torch.randint}
_LIKE = {torch.rand_like, torch.randn_like, torch.randint_like}
_IN_PLACE = {Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_}
_IMAGES, _LOGITS = 4, 2
"""Dimensions of [N, C, H, W] and [N, K]. Other draws are for no image in particular, such as a square's place."""


class Common(TorchFunctionMode):
    """While it is active, a draw for a batch is drawn for one image and repeated. Not within `as_drawn`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one function of torch."""
        options = kwargs or {}
        if func in _SIZED:
            return _sized(func, args, options)
        if func in _LIKE and args[0].ndim in (_IMAGES, _LOGITS):
            like, *rest = args
            return _repeated(func(like[:1], *rest, **options), len(like))
        if func in _IN_PLACE and args[0].ndim in (_IMAGES, _LOGITS):
            target, *rest = args
            func(target[:1], *rest, **options)
            return target.copy_(target[:1].expand_as(target))
        return func(*args, **options)


def as_drawn() -> Any:
    """Return a context in which draws are as usual: a system's own randomness is not the attack's."""
    return torch._C.DisableTorchFunction()


def _sized(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Any:
    place = next((i for i, arg in enumerate(args) if isinstance(arg, torch.Size | tuple | list)), None)
    size = args[place] if place is not None else options.get("size")
    if size is None and func is not torch.randint and len(args) == _IMAGES:
        size, place, args = args, 0, (args,)  # torch.rand(n, c, h, w)
    if size is None or len(size) != _IMAGES:
        return func(*args, **options)
    one = (1, *size[1:])
    if place is None:
        return _repeated(func(*args, **{**options, "size": one}), size[0])
    return _repeated(func(*args[:place], one, *args[place + 1 :], **options), size[0])


def _repeated(drawn: Tensor, n: int) -> Tensor:
    return drawn.repeat(n, *[1] * (drawn.ndim - 1))
