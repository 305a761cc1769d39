"""What an attack costs: images sent forward and gradients taken, counted at the model's door."""

from __future__ import annotations

from torch import Tensor, nn


class Counted(nn.Module):
    """A model that counts. One addition a pass: it changes neither results nor speed.

    ``forwards`` counts images [N, ...] that went in, ``backwards`` images whose gradient came back to the
    logits: an attack that differentiates every class by itself is counted once a class.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0
        # Entering a model must not change it: a new nn.Module is in training mode.
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits for x [N, ...]."""
        self.forwards += len(x)
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
