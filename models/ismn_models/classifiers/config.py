"""Settings of the base classifier. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Predicate

from ismn_models.shape import Shape

ARCHS = ("table1", "celebanet", "magnet-mnist", "magnet-cifar10", "resnet18", "wrn-28-10")
FROM = ("torchvision", "timm")


def known_arch(arch: str) -> bool:
    """Return True for a name in `ARCHS` or "LIBRARY:NAME". Raises ValueError with what was probably meant."""
    library, colon, name = arch.partition(":")
    if arch in ARCHS or (colon and name and library in FROM):
        return True
    near = difflib.get_close_matches(arch.lower(), ARCHS, n=1, cutoff=0.5)
    meant = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(f"there is no '{arch}'; {meant}Known are {', '.join(ARCHS)}, torchvision:NAME and timm:NAME")


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier trained on clean images; Table 1's net unless ``arch`` names another."""

    arch: Annotated[str, Predicate(known_arch)] = "table1"
    """table1: Haque and Kang's. celebanet: VGG11 with batch normalisation and three dense layers (Zhou et al. 2019).
    magnet-mnist, magnet-cifar10: those that MagNet was tried on (Meng and Chen 2017).
    resnet18, wrn-28-10: in their CIFAR form. torchvision:NAME, timm:NAME: a classifier of that library, with new
    weights and ImageNet's normalisation inside; those made for 224 pixels want a larger ``side``."""
    side: Annotated[int, Ge(8)] = 128
    """Larger images are reduced to so many pixels a side inside the classifier, by area averaging."""
    pretrained: bool = False
    """Of celebanet: begin with VGG11's features as trained on ImageNet, as published; torchvision downloads them."""
    padding: Literal["valid", "same"] = "valid"
    """Of Table 1's convolutions."""
    epochs: int = 60
    batch_size: int = 128
    lr: float = 0.05
    schedule: Literal["cosine", "inverse-time"] = "cosine"
    """Of the learning rate. cosine: a linear warm-up, then half a cosine to zero. inverse-time: lr / (1 + 1e-6 t) at
    step t, Keras's decay, as MagNet's classifiers were trained."""
    shift: Annotated[int, Ge(0)] = 4
    """Pixels that a training image is shifted by at most; where that keeps its class it is mirrored too."""
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    temperature: float = 1.0
    """Divides the logits in the loss. Above 1 it scales the logits up by as much, which saturates the softmax
    and hides the gradient from cross-entropy attacks (Papernot 2016; broken by Carlini and Wagner 2017)."""

    def resolved(self, shape: Shape) -> Self:
        """Return these settings. Raises ValueError or RefusalError where the net does not take images of ``shape``."""
        if self.arch == "magnet-mnist" and min(shape.size, self.side) < 16:
            raise ValueError(f"arch: magnet-mnist takes images of 16 pixels a side at least, not {shape.size}")
        if self.pretrained and (self.arch != "celebanet" or shape.channels != 3):
            raise ValueError("pretrained: there are such weights for arch celebanet and colour images only")
        if ":" in self.arch:
            from ismn_models.classifiers.reference import check  # noqa: PLC0415 - it imports torch

            check(self.arch, shape.classes, shape.channels, min(shape.size, self.side))
        return self


@dataclass(frozen=True)
class HardenedConfig:
    """What adversarial training and distillation share: a second classifier of the base's architecture.

    Learning rate and weight decay are the base's own.
    """

    start: Literal["fresh", "base"] = "fresh"
    """fresh: from new weights. base: from the base classifier's, which needs far fewer epochs."""
    batch_size: Annotated[int, Ge(2)] = 128
    lr: Annotated[float, Gt(0)] = 0.05
    weight_decay: Annotated[float, Ge(0)] = 5e-4
