"""Settings of TRADES. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from ismn_models.adversarial.config import RobustConfig


@dataclass(frozen=True)
class TradesConfig(RobustConfig):
    """Loss and attack are those of the official code (yaodongyu/TRADES), whose eps is 0.031 and step 0.007.

    Schedule, learning rate and weight decay are the base's own; there, 76 epochs at 0.1, then at 0.01, and 2e-4.
    """

    beta: Annotated[float, Ge(0)] = 6.0
    """Weight of the divergence between the answers to attacked and clean images, the paper's 1/lambda."""
    steps: Annotated[int, Ge(1)] = 10
    """Of the attack."""
    step_size: Annotated[float, Gt(0)] | None = None
    """A quarter of eps unless given."""

    def attack_step_size(self) -> float:
        """Return the size of each step, in pixel units."""
        return self.step_size or self.eps / 4
