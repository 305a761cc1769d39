"""Settings of PRN. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class PrnConfig:
    """The method is the paper's (arXiv 1711.05929); its numbers are quoted from memory, and it had 224x224 images."""

    output: Literal["residual", "image"] = "residual"
    """residual: the net's output is added to the image, so that training starts from the identity.
    image: the output is the image, as the paper draws it."""
    maps: Annotated[int, Ge(1)] = 64
    """Of every convolution but the last two."""

    epochs: Annotated[int, Ge(0)] = 5
    batch_size: Annotated[int, Ge(2)] = 64
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam. The paper has 0.01, which did no better over the first hundred steps on CIFAR-10."""
    lr_decay: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Factor of the learning rate for every thousand steps."""
    perturbed_share: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """Probability that a training image is perturbed."""

    eps: tuple[Annotated[float, Interval(gt=0, le=1)], ...] = (8 / 255, 0.1, 0.2)
    """Sizes of the training perturbations in L-inf, pixels in [0, 1]. The paper has 10/255; these are sizes that
    systems are compared at, and above 0.2 one perturbation leaves little of any image."""
    l2_eps: tuple[Annotated[float, Gt(0)], ...] = ()
    """Sizes in L2. The paper's 2000/255 at 224x224x3 is 1.12 at 32x32x3, by the root of the number of values."""
    perturbations: Annotated[int, Ge(1)] = 50
    """Universal perturbations in all, spread over the sizes; what is not computed is synthetic."""
    seeds: Annotated[int, Ge(1)] = 10
    """How many of them are computed on the base classifier, at least one for each size."""
    universal_images: Annotated[int, Ge(1)] = 256
    """Training images that each is computed on, drawn anew for each."""
    universal_passes: Annotated[int, Ge(1)] = 4
    """Over these images."""

    detector_images: Annotated[int, Ge(5)] = 5_000
    """Training images that the detector is fitted on, each clean and perturbed."""
    false_positive_rate: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Share of clean validation images that the detector may flag."""

    def __post_init__(self) -> None:
        sizes = len(self.sizes())
        if not sizes:
            raise ValueError("there is no size to train on; give eps or l2_eps")
        if not sizes <= self.seeds <= self.perturbations:
            raise ValueError(
                f"seeds is {self.seeds}; it must be at least {sizes}, one for each size in eps and l2_eps, "
                f"and at most perturbations ({self.perturbations})"
            )

    def sizes(self) -> list[tuple[Norm, float]]:
        """Return the norm and size of each group of training perturbations."""
        return [*(("linf", eps) for eps in self.eps), *(("l2", eps) for eps in self.l2_eps)]
