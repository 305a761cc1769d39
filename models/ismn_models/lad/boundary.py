"""The boundary between two classes in the latent space, and images generated from beyond it (Zhou et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.lad.compat import Reading
from ismn_models.lad.config import LadConfig
from ismn_models.lad.nets import AttentionSvm
from ismn_models.refusal import RefusalError
from ismn_models.shape import Shape

HELD_OUT = 0.33
"""Of the images of each class that an SVM could have."""


class Targets(NamedTuple):
    """Which training images ``image`` [N] of class ``source`` [N] are led towards class ``target`` [N]."""

    image: Tensor
    source: Tensor
    target: Tensor

    def between(self) -> Iterator[tuple[int, int, Targets]]:
        """Yield (first class, second class, the targets between them), first < second, pair by pair."""
        low, high = torch.minimum(self.source, self.target), torch.maximum(self.source, self.target)
        for first, second in sorted(set(zip(low.tolist(), high.tolist(), strict=True))):
            chosen = (low == first) & (high == second)
            yield first, second, Targets(*(t[chosen] for t in self))


class Examples:
    """Images generated from training images: their positions [N], and pixels uint8 [N, C, n, n]."""

    def __init__(self, shape: Shape) -> None:
        self.index = torch.empty(0, dtype=torch.int64)
        self.pixels = torch.empty(0, shape.channels, shape.size, shape.size, dtype=torch.uint8)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"index": self.index, "pixels": self.pixels}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.index, self.pixels = state["index"], state["pixels"]


class Generated(NamedTuple):
    """What was generated for N images."""

    pixels: Tensor
    """uint8 [N, C, n, n]"""
    eps: Tensor
    """[N]: steps gone along the normal"""
    flipped: Tensor
    """bool [N]: the classifier's answer is another one than to the image"""
    misread: Tensor
    """bool [N]: it is so without any step, from the reconstruction alone"""


def separable(labels: Tensor) -> Tensor:
    """Return the classes that have two images at least. Raises RefusalError where there are fewer than two such."""
    (usable,) = (labels.bincount(minlength=2) >= 2).nonzero(as_tuple=True)
    if len(usable) < 2:
        raise RefusalError("LAD needs two images at least of two classes at least.", "Train on more images.")
    return usable


def draw_targets(labels: Tensor, usable: Tensor, per_class: int) -> Targets:
    """Draw ``per_class`` images of each of the classes ``usable``, and for each image another one of them."""
    image, target = [], []
    for number, label in enumerate(usable.tolist()):
        found = (labels == label).nonzero().flatten()
        found = found[_shuffled(found)][:per_class]
        others = torch.cat([usable[:number], usable[number + 1 :]])
        image.append(found)
        target.append(others[torch.randint(len(others), (len(found),)).to(others.device)])
    whole = torch.cat(image)
    return Targets(whole, labels[whole], torch.cat(target))


class Latents:
    """The latents of some images of each class, in random order; asked for once, kept."""

    def __init__(self, reading: Reading, images: Images, config: LadConfig, batch: int) -> None:
        self.reading, self.images, self.config, self.batch = reading, images, config, batch
        self.found: dict[int, Tensor] = {}

    def of(self, label: int) -> Tensor:
        """Return z [n, d] of at most ``svm_images`` images of class ``label``."""
        if label not in self.found:
            index = (self.images.labels == label).nonzero().flatten()
            index = index[_shuffled(index)][: self.config.svm_images]
            batches = self.images.take(index).batches(self.batch)
            self.found[label] = torch.cat([self.reading.latents(x) for x, _ in batches])
        return self.found[label]


def separate(first: Tensor, second: Tensor, config: LadConfig) -> tuple[AttentionSvm, float]:
    """Fit the boundary between latents [n, d] of two classes; return it and its accuracy on a third of them.

    One SVM serves both directions of a pair: towards the second class along its normal, towards the first against it.
    The public code fits two, and takes the normal of either with the attention of the one that was fitted last.
    """
    svm = AttentionSvm(first.shape[1]).to(first.device)
    (first, first_held), (second, second_held) = (_parted(z) for z in (first, second))
    fit(svm, *_sided(first, second), config)
    z, side = _sided(first_held, second_held)
    with torch.no_grad():
        right = (svm(z) > 0) == (side > 0)
    return svm, right.float().mean().item()


def _parted(z: Tensor) -> tuple[Tensor, Tensor]:
    held_out = math.ceil(HELD_OUT * len(z))
    return z[held_out:], z[:held_out]


def _sided(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    sides = torch.cat([-first.new_ones(len(first)), second.new_ones(len(second))])
    return torch.cat([first, second]), sides


def fit(svm: AttentionSvm, z: Tensor, side: Tensor, config: LadConfig) -> None:
    """Minimise c mean(max(0, 1 - side score(z))) + mean(w^2) by plain SGD; z [N, d], side [N] of -1 and 1.

    A step adds outer products with latents to W [d, d]. So what W makes of any latent follows from their products
    with each other, and W itself, with its 16 million numbers for CelebANet, is touched at the end only.
    """
    lr, normal, bias = config.svm_lr, svm.normal.weight, svm.normal.bias
    with torch.no_grad():
        first, products = svm.query(z), z @ z.T + 1  # + 1: c is the weight of a constant input
    moved = torch.zeros_like(first)
    for _ in range(config.svm_epochs):
        for index in torch.split(_shuffled(z), config.svm_batch_size):
            query = (first[index] - lr * products[index] @ moved).requires_grad_()
            hinge = (1 - side[index] * svm.score(query, z[index])).clamp(min=0).mean()
            loss = config.svm_c * hinge + normal.square().mean()
            of_query, of_normal, of_bias = torch.autograd.grad(loss, (query, normal, bias))
            with torch.no_grad():
                moved[index] += of_query
                normal.sub_(lr * of_normal)
                bias.sub_(lr * of_bias)
    with torch.no_grad():
        svm.query.weight.sub_(lr * moved.T @ z)
        svm.query.bias.sub_(lr * moved.sum(0))


def _shuffled(of: Tensor) -> Tensor:
    """Return 0 to len(of) - 1 in random order; drawn on the CPU, so that it is the same for any device."""
    return torch.randperm(len(of)).to(of.device)


@torch.no_grad()
def cross(
    reading: Reading, generator: nn.Module, svm: AttentionSvm, x: Tensor, way: Tensor, config: LadConfig
) -> Generated:
    """Go from x [N, C, n, n] along ``way`` [N] (1 or -1) of the normal until the generated image is read otherwise.

    z' = z + eps a(z) o (way w) and x' = g(z'), for each eps of `LadConfig.ladder`; x' is rounded to bytes first.
    """
    z, before = reading.latents(x), reading.answers(x)
    step = way[:, None] * svm.direction(z)
    misread = reading.generated(_bytes(generator(z)).float() / 255) != before
    pixels = torch.empty_like(x, dtype=torch.uint8)
    reached, flipped = z.new_zeros(len(z)), torch.zeros_like(misread)
    for eps in config.ladder():
        (left,) = (~flipped).nonzero(as_tuple=True)
        if not len(left):
            break
        pixels[left] = _bytes(generator(z[left] + eps * step[left]))
        flipped[left] = reading.generated(pixels[left].float() / 255) != before[left]
        reached[left] = eps
    return Generated(pixels, reached, flipped, misread)


def _bytes(images: Tensor) -> Tensor:
    return (255 * images).round().to(torch.uint8)
