"""Settings of ISMN. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

Part = Literal[
    "guide",
    "gan",
    "instance-sparsity",
    "unit-sparsity",
    "second-pass",
    "detector",
    "loop",
    "adversarial-training",
    "distillation",
    "target",
]
"""What `off` can switch off, each alone, for ablation:

guide, gan, instance-sparsity, unit-sparsity, second-pass   the terms of the mapping network's loss
detector              no routing: every input is regenerated
loop                  one regeneration at most
adversarial-training  the target classifier sees no attacks of its own
distillation          the target classifier learns from labels only
target                the base classifier answers (isolates the mapping network)
"""


@dataclass(frozen=True)
class IsmnConfig:
    """The paper gives the idea and Tables 1 and 2; every number it leaves open is set here."""

    generator: Literal["skip", "plain"] = "skip"
    """skip: residual with skip connections. plain: only what Table 2 literally supports, a 128-number code."""
    off: tuple[Part, ...] = ()

    mapping_epochs: Annotated[int, Ge(0)] = 60
    target_epochs: Annotated[int, Ge(0)] = 30
    batch_size: Annotated[int, Ge(2)] = 128

    eps: tuple[float, ...] = (8 / 255, 0.1, 0.2, 0.3, 0.4)
    """Sizes of the training attacks, one drawn per image."""
    pgd_steps: Annotated[int, Ge(1)] = 10
    train_label: Literal["predicted", "true"] = "predicted"
    """Label that training attacks move away from. True labels leak into one-step attacks (Kurakin et al. 2017)."""
    refresh: Annotated[int, Ge(1)] = 5
    """Epochs for which crafted training attacks are kept. The base is frozen, so they stay valid; 1 is freshest."""

    mapping_lr: Annotated[float, Gt(0)] = 2e-4
    guide_weight: float = 0.1
    sparsity_weight: float = 1.0
    gan_weight: float = 0.01
    second_pass_weight: float = 0.5
    gan_start: Annotated[int, Ge(0)] = 5
    """Epoch from which the discriminator takes part."""
    sparsity: Literal["mean", "topk"] = "mean"
    mu: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Target share of active code units (DDSA's 0.1)."""
    beta: float = 0.01
    """Rate of DDSA's bias rule."""

    detector_images: Annotated[int, Ge(2)] = 10_000
    false_positive_rate: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    fixed_point_quantile: Annotated[float, Interval(gt=0, le=1)] = 0.95
    loops: Annotated[int, Ge(1)] = 5

    target_lr: Annotated[float, Gt(0)] = 0.01
    temperature: Annotated[float, Gt(0)] = 20.0
    """Of the soft labels only. The base is trained at 1: trained at 20, its saturated softmax would hide the
    gradient from every cross-entropy attack and flatter the undefended row."""
    hard_label_share: Annotated[float, Interval(ge=0, le=1)] = 0.5
    at_eps: float = 8 / 255
    at_steps: Annotated[int, Ge(1)] = 7

    def uses(self, part: Part) -> bool:
        """Whether ``part`` is switched on."""
        return part not in self.off
