"""Settings of adversarial training. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from ismn_models.classifiers.config import HardenedConfig


@dataclass(frozen=True)
class RobustConfig(HardenedConfig):
    """What adversarial training and TRADES share."""

    eps: Annotated[float, Interval(gt=0, le=1)] = 8 / 255
    """Size of the training attacks in L-inf, pixels in [0, 1]."""
    epochs: Annotated[int, Ge(1)] = 60
    """With a cosine to zero. Madry's 200 at a stepped rate overfit (Rice, Wong and Kolter 2020)."""


@dataclass(frozen=True)
class AdversarialConfig(RobustConfig):
    """The base's architecture, trained on attacks on itself in place of the images."""

    method: Literal["pgd", "fast"] = "pgd"
    """pgd: PGD from a random start (Madry et al. 2018). fast: one step from a random start (Wong et al. 2020), a
    quarter of the cost, and at risk of catastrophic overfitting, for which the training watches."""
    steps: Annotated[int, Ge(1)] | None = None
    """Of the attack; 7 in pgd unless given. fast takes one."""
    step_size: Annotated[float, Gt(0)] | None = None
    """A quarter of eps in pgd (2/255 at 8/255), 1.25 eps in fast, unless given."""

    def __post_init__(self) -> None:
        if self.method == "fast" and self.steps not in (None, 1):
            raise ValueError("method fast takes one step; leave steps out, or give method pgd")

    def attack_steps(self) -> int:
        """Return how many steps a training attack takes."""
        return 1 if self.method == "fast" else self.steps or 7

    def attack_step_size(self) -> float:
        """Return the size of each step, in pixel units."""
        return self.step_size or self.eps * (1.25 if self.method == "fast" else 0.25)
