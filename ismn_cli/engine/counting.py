"""What an attack costs: images sent forward and gradients taken, counted at the model's door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ismn_cli.engine.draws import as_drawn
from ismn_cli.engine.groups import filled
from ismn_models.pipeline import Reading, Surrogate

_LISTENERS: list[Callable[[int], None]] = []
"""The last one hears. No context variable: gradients on a GPU come back in a thread of their own."""


@contextmanager
def heard(listener: Callable[[int], None]) -> Iterator[None]:
    """Tell ``listener`` of passes when they are made in the block: of how many."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.pop()


def tell(passes: int) -> None:
    """Let so many passes be heard."""
    if _LISTENERS:
        _LISTENERS[-1](passes)


class Counted(nn.Module):
    """A model that counts. With ``whole_groups`` it always sees whole groups of images (see `groups.filled`).

    ``forwards`` counts images [N, ...] that went in, ``backwards`` images whose gradient came back to the
    logits or to the margin: an attack that differentiates every class by itself is counted once a class. A
    model that is itself made of several passes says so (`cost_of`), and each image counts that often.
    """

    def __init__(self, model: nn.Module, whole_groups: bool = False) -> None:
        super().__init__()
        self.model, self.whole_groups = model, whole_groups
        self.cost = cost_of(model)
        self.forwards = 0
        self.backwards = 0
        self.images: int | None = None
        """How many of a batch are images; others only fill it up, and are not counted."""
        # Entering a model must not change it: a new nn.Module is in training mode.
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits for x [N, ...]."""
        self.forwards += self._passes(len(x))
        with as_drawn():
            logits = self.model(self._shown(x))[: len(x)]
        return self._watched(logits)

    def look(self, x: Tensor) -> Reading:
        """Return the model's logits and, where it stands behind a detector, the margin for x [N, ...]."""
        if not isinstance(self.model, Surrogate):
            return Reading(self(x))
        self.forwards += self._passes(len(x))
        with as_drawn():
            logits, margin = self.model.look(self._shown(x))
        return Reading(self._watched(logits[: len(x)]), None if margin is None else self._watched(margin[: len(x)]))

    def _shown(self, x: Tensor) -> Tensor:
        return filled(x) if self.whole_groups else x

    def _passes(self, n: int) -> int:
        """Return how many passes one of n images is, and let them be heard."""
        passes = self.cost * (n if self.images is None else min(n, self.images))
        tell(passes)
        return passes

    def _watched(self, output: Tensor) -> Tensor:
        if output.requires_grad:
            output.register_hook(self._count)  # type: ignore[no-untyped-call]
        return output

    def _count(self, gradient: Tensor) -> None:
        self.backwards += self._passes(len(gradient))


def cost_of(model: nn.Module) -> int:
    """Return how many passes of what it stands for one pass of ``model`` makes: 1, unless a surrogate says more."""
    return model.cost if isinstance(model, Surrogate) else 1
