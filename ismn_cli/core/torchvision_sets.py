"""Torchvision's labelled image sets that `torchvision:NAME` stands for; no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "torchvision:"
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class TorchvisionSet:
    """How a class of `torchvision.datasets` is asked for its splits.

    Where there is no ``validation`` a tenth of each class of ``train`` is drawn for it by hash; where there is no
    ``test`` another tenth is.
    """

    classes: int
    train: Arguments = field(default_factory=dict)
    test: Arguments | None = None
    validation: Arguments | None = None


def _flagged(classes: int, **more: Any) -> TorchvisionSet:
    return TorchvisionSet(classes, {"train": True, **more}, {"train": False, **more})


def _split(classes: int, train: str = "train", test: str = "test", validation: str | None = None) -> TorchvisionSet:
    return TorchvisionSet(classes, {"split": train}, {"split": test}, {"split": validation} if validation else None)


SETS: Mapping[str, TorchvisionSet] = {
    "CIFAR10": _flagged(10),
    "CIFAR100": _flagged(100),
    "Caltech101": TorchvisionSet(101),
    "Caltech256": TorchvisionSet(257),
    "Country211": _split(211, validation="valid"),
    "DTD": _split(47, validation="val"),
    "EMNIST": _flagged(47, split="balanced"),
    "EuroSAT": TorchvisionSet(10),
    "FGVCAircraft": _split(100, validation="val"),
    "FashionMNIST": _flagged(10),
    "Flowers102": _split(102, validation="val"),
    "Food101": _split(101),
    "GTSRB": _split(43),
    "Imagenette": _split(10, test="val"),
    "KMNIST": _flagged(10),
    "MNIST": _flagged(10),
    "OxfordIIITPet": _split(37, train="trainval"),
    "PCAM": _split(2, validation="val"),
    "QMNIST": _flagged(10),
    "RenderedSST2": _split(2, validation="val"),
    "SEMEION": TorchvisionSet(10),
    "STL10": _split(10),
    "SUN397": TorchvisionSet(397),
    "SVHN": _split(10),
    "StanfordCars": _split(196),
    "USPS": _flagged(10),
}
