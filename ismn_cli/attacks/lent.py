"""Models as torchattacks, and code written like it, want them lent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_cli.core.specs import Norm

NORMS = {Norm.LINF: "Linf", Norm.L2: "L2"}
"""How torchattacks spells them."""


class Plain(nn.Module):
    """A model that is given images, and gives gradients, in plain memory, and works in a format of its own."""

    def __init__(self, model: nn.Module, form: torch.memory_format) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits for x [N, C, H, W]."""
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        logits: Tensor = self.model(x.contiguous(memory_format=self.form))
        return logits


class OnDevice(nn.Module):
    """A model without parameters, on a device: torchattacks reads the device from the first parameter."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.anchor = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits for x [N, ...]."""
        logits: Tensor = self.model(x)
        return logits


class AboveZero(nn.Module):
    """A model with its logits shifted so that the smallest is 0: same answers, margins and cross-entropy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] >= 0 for x [N, ...]."""
        logits: Tensor = self.model(x)
        return logits - logits.amin(1, keepdim=True).detach()


def contained(cls: type) -> type:
    """Return a torchattacks class with plain attribute assignment.

    torchattacks' own looks for attacks inside attacks with a recursive closure that keeps all it has seen in
    a default argument: a reference cycle around the model, which only the cycle collector frees, and that
    one counts objects, not the megabytes that hang on them. What it finds it needs for modes that are not used here.
    """
    return type(cls.__name__, (cls,), {"__setattr__": object.__setattr__})
