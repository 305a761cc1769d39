"""Settings of LAD. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from ismn_models.classifiers.config import HardenedConfig


@dataclass(frozen=True)
class LadConfig(HardenedConfig):
    """Zhou et al.'s method as their public code has it (zhouxiaowei1120/LADDER), with four of its faults put right.

    The code's optional GAN term has weight 0 there; it is left out.
    """

    compat: bool = False
    """Do what the public code does where it is wrong: `ismn train --system lad config.compat=true`. See
    `ismn_models.lad.compat` for the list."""

    start: Literal["fresh", "base"] = "base"
    """base: harden the trained classifier, as published. fresh: from new weights."""
    epochs: Annotated[int, Ge(1)] = 30
    """Of hardening; 100 in the public code."""
    batch_size: Annotated[int, Ge(2)] = 64
    """Of hardening, about: pairs of an image and what was generated from it. 128 in the public code's CIFAR part."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Constant. 0.001 in the public code's CIFAR part."""
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    """0.9 in the public code's CIFAR part."""
    per_class: Annotated[int, Ge(1)] | None = None
    """Training images of each class to generate from; 900 for two classes and 450 for more unless given."""

    generator_epochs: Annotated[int, Ge(1)] = 30
    """1,000 in the public code."""
    generator_batch_size: Annotated[int, Ge(2)] | None = None
    """200 unless given, and fewer in proportion for images of more than 64 pixels a side."""
    generator_lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam."""
    width: Annotated[int, Ge(8)] = 512
    """Channels of the generator's first map. Nearly all of LAD's time goes into its convolutions, in proportion to
    the square of this: without a GPU take 128."""
    error: Literal["l1", "l2"] = "l1"
    """Of the generator's reconstructions: l1 for faces and CIFAR, l2 for MNIST in the public code."""

    svm_images: Annotated[int, Ge(2)] = 200
    """Of each class; two thirds fit the SVM, the others measure it."""
    svm_epochs: Annotated[int, Ge(1)] = 10
    svm_batch_size: Annotated[int, Ge(1)] = 1
    """The normal is not scaled to length 1, so with larger batches, and fewer steps, it stays shorter."""
    svm_lr: Annotated[float, Gt(0)] = 0.01
    svm_c: Annotated[float, Gt(0)] = 0.01
    """Weight of the hinge beside the mean square of the normal."""

    eps_init: Annotated[float, Ge(0)] = 0.1
    """Length of the first step, in normals of the boundary. The public code can begin at 0, where what flips is a
    bad reconstruction."""
    eps_step: Annotated[float, Gt(0)] = 0.1
    """Ten times as much from eps 1 on."""
    eps_max: Annotated[float, Gt(0)] = 100.0
    """An image that has not flipped there is trained on as it is there."""

    def __post_init__(self) -> None:
        if self.eps_init > self.eps_max:
            raise ValueError(f"eps_init {self.eps_init} is above eps_max {self.eps_max}")

    def images_per_class(self, classes: int) -> int:
        """Return how many training images of each class are generated from."""
        return self.per_class or (900 if classes == 2 else 450)

    def generator_batch(self, size: int) -> int:
        """Return the generator's batch size for images of ``size`` pixels a side."""
        return self.generator_batch_size or min(200, max(2, 200 * 64**2 // size**2))

    def ladder(self) -> tuple[float, ...]:
        """Return the eps to try, from the smallest; the last is ``eps_max`` at most."""
        rungs = [self.eps_init]
        while (following := round(rungs[-1] + self.eps_step * (10 if rungs[-1] >= 1 else 1), 6)) <= self.eps_max:
            rungs.append(following)
        return tuple(rungs)
