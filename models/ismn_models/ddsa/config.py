"""Settings of the DDSA-style defence. No torch here: the command line reads them before building a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

Part = Literal["sparsity"]
"""What `off` can switch off: "sparsity" leaves the paper's own ablation, a denoising autoencoder ("DDA")."""


@dataclass(frozen=True)
class DdsaConfig:
    """The method is the paper's; layer sizes and eps are not public, so the numbers are this project's."""

    inner: Literal["classifier", "recon"] = "classifier"
    """What the training attack maximises.

    classifier: the frozen classifier's loss, the paper's gray-box protocol.
    recon: the reconstruction error through the autoencoder, the paper's formula.
    """
    off: tuple[Part, ...] = ()

    epochs: Annotated[int, Ge(0)] = 100
    batch_size: Annotated[int, Ge(2)] = 128
    lr: Annotated[float, Gt(0)] = 1e-3

    eps_max: Annotated[float, Interval(gt=0, le=1)] = 0.4
    """Each image's eps is uniform in [0, eps_max], pixels in [0, 1]: it covers 8/255 and Table 3's levels."""
    pgd_steps: Annotated[int, Ge(1)] = 10
    """Each of 2.5 eps / steps."""
    refresh: Annotated[int, Ge(1)] = 10
    """Epochs for which attacks on the frozen classifier are kept. With inner: recon they cannot be kept."""

    mu: Annotated[float, Gt(0)] = 0.1
    """Target mean activation of the sparse layer."""
    beta: Annotated[float, Ge(0)] = 1e-2
    """Sparsity rate: after each step b -= lr beta (running mean - mu)."""

    def uses(self, part: Part) -> bool:
        """Whether ``part`` is switched on."""
        return part not in self.off
