"""How LAD reads images, latents and classes: as it should, or as the public code (zhouxiaowei1120/LADDER) does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.classifiers.resnet import Normalise
from ismn_models.classifiers.table1 import Table1
from ismn_models.images import Images
from ismn_models.lad.latents import latent_of


class Reading:
    """The base classifier as LAD asks it; images are float [N, C, n, n] in [0, 1]."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.latent = latent_of(net)

    def latents(self, x: Tensor) -> Tensor:
        """Return z [N, d] of the images."""
        return self.latent(x)

    def answers(self, x: Tensor) -> Tensor:
        """Return the class [N] of the images."""
        return self.classes(x)

    def generated(self, x: Tensor) -> Tensor:
        """Return the class [N] of generated images."""
        return self.classes(x)

    def svm_images(self, train: Images, validation: Images) -> Images:
        """Return the images that the boundary is fitted on."""
        return train

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """Return the class [N] that the net gives to what it is handed."""
        logits: Tensor = self.net(x)
        return logits.argmax(1)


class PublicCode(Reading):
    """The four faults of the public code that decide what is generated; its reading of PNG files is right."""

    def latents(self, x: Tensor) -> Tensor:
        # Fault 1: latents are taken of images in [0, 1], of a net that was trained on normalised ones.
        return self.latent(unnormalised(self.net, x))

    def answers(self, x: Tensor) -> Tensor:
        # Fault 1 again: the answer to flip is that to those latents.
        return self.classes(unnormalised(self.net, x))

    def generated(self, x: Tensor) -> Tensor:
        # Fault 2: generated images are scored as they are written to files, 0 to 255 (all but the CIFAR part).
        return self.classes(unnormalised(self.net, 255 * x))

    def svm_images(self, train: Images, validation: Images) -> Images:
        # Fault 3: the SVM is fitted on the other split. That is the test split there; here no training sees it.
        return validation

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        if logits.shape[1] == 2 and not logits[:, 0].any():
            # Fault 4: one logit is held against 0.5 as if it were a probability; the boundary is at 0.
            return (logits[:, 1] >= 0.5).long()
        return logits.argmax(1)


def unnormalised(net: nn.Module, x: Tensor) -> Tensor:
    """Return what ``net`` must be handed for its first layer to see ``x`` itself.

    For a net that normalises nothing, or in a way of its own, that is ``x``.
    """
    for module in net.modules():
        if isinstance(module, Normalise):
            return x * module.std + module.mean
        if isinstance(module, Table1):
            return x / 4 + 0.5
    return x
