"""Expectation over transformation (EOT): a randomised model read several times a pass (Athalye et al. 2018)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.engine.counting import cost_of
from ismn_models.pipeline import Read, Reading, Surrogate


class Averaged(Surrogate):
    """A model whose every reading is the mean of ``draws`` readings, so that any attack on it is an EOT attack.

    The logits are averaged as they are. The mean of log-probabilities differs from that by the same amount for
    every class, so to a cross-entropy, a margin or an argmax the two are one; the logarithm of the mean
    probability would saturate with each confident draw. Margins of a detector are averaged too.

    A pass costs ``draws`` passes of the model, in memory too while its gradient is awaited. The model is called
    once a draw, not once with a larger batch: a defence may draw once for all images.
    """

    def __init__(self, model: nn.Module, draws: int) -> None:
        """Wrap a surrogate, or any module with logits. Raises UsageError for less than one draw."""
        if draws < 1:
            raise UsageError(f"An average over {draws} draws is none.", "Give at least 1, such as --eot 20.")
        read = model.look if isinstance(model, Surrogate) else _plain(model)
        super().__init__(model, partial(_mean, read, draws), cost=draws * cost_of(model), drawn=True)


def _plain(model: nn.Module) -> Read:
    return lambda x: Reading(model(x))


def _mean(read: Read, draws: int, x: Tensor) -> Reading:
    logits, margins = zip(*(read(x) for _ in range(draws)), strict=True)
    return Reading(torch.stack(logits).mean(0), None if margins[0] is None else torch.stack(margins).mean(0))
