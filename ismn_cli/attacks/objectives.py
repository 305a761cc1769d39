"""What an attack climbs: losses of each sample, higher the closer the sample is to a wrong answer.

All take logits [N, K] and labels y int64 [N] and return [N]. A sample is misclassified if and only if its
`margin` is above 0; `targeted_margin` and `dlr` above 0 say so too, for every loss but the cross-entropies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]

SPREAD = 10.0
"""Between the largest and the smallest of the logits that `scaled_ce` looks at: e^-10 keeps its digits in float32."""


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy. Its gradient is zero in float32 where the true logit leads by about 104."""
    return cross_entropy(logits, y, reduction="none")


def scaled_ce(logits: Tensor, y: Tensor, temperature: float | None = None) -> Tensor:
    """Return the cross-entropy of logits / temperature, which undoes the saturation of defensive distillation.

    Without a temperature each sample takes its own, a constant to the gradient, that brings its logits to a
    range of `SPREAD`: the loss then does not change with the scale of the logits.
    """
    if temperature is not None:
        return ce(logits / temperature, y)
    return ce(logits * (SPREAD / extent(logits))[:, None], y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return how far the best wrong logit is above the true one (Carlini and Wagner 2017, f6)."""
    true = y[:, None]
    return logits.scatter(1, true, -torch.inf).amax(1) - logits.gather(1, true)[:, 0]


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return how far the logit of class ``target`` int64 [N] is above the true one (Gowal et al. 2019)."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio (Croce and Hein 2020, Eq. 6); needs three classes.

    The margin over the distance between the largest and the third largest logit.
    """
    top = logits.topk(3, 1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2]).clamp_min(torch.finfo(logits.dtype).eps)


LOSSES: dict[str, Loss] = {"ce": ce, "scaled-ce": scaled_ce, "margin": margin, "dlr": dlr}


def extent(logits: Tensor) -> Tensor:
    """Return the range of each sample's logits [N] as a constant, above 0: the unit that margins are measured in.

    It is 1 where they are not finite.
    """
    logits = logits.detach()
    return (logits.amax(1) - logits.amin(1)).nan_to_num(1.0, 1.0).clamp_min(torch.finfo(logits.dtype).eps)


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """Return the wrong classes of each sample, the most likely first: int64 [N, K - 1]."""
    ranked = logits.detach().scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    return ranked[:, :-1]
