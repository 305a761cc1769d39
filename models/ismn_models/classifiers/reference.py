"""Classifiers of torchvision and timm by name, "torchvision:resnet50" or "timm:convnext_tiny", with new weights."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ismn_models.classifiers.celebanet import MEAN, STD
from ismn_models.classifiers.resnet import Normalise
from ismn_models.refusal import RefusalError


class Reference(nn.Module):
    """A library's net behind ImageNet's normalisation (1/2 and 1/4 where images have other than three channels)."""

    def __init__(self, arch: str, classes: int, channels: int, size: int) -> None:
        """Build ``arch``, "LIBRARY:NAME", for images of ``size`` pixels a side. Raises RefusalError; see `check`."""
        super().__init__()
        self.made = (arch, classes, channels, size)
        colour = channels == len(MEAN)
        self.normalise = Normalise(MEAN, STD) if colour else Normalise((0.5,) * channels, (0.25,) * channels)
        self.net = _make(*self.made)

    def reset_parameters(self) -> None:
        """Draw all weights afresh, each as its library draws it."""
        self.net.load_state_dict(_make(*self.made).state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, n, n] in [0, 1]."""
        logits: Tensor = self.net(self.normalise(x))
        return logits


def check(arch: str, classes: int, channels: int, size: int) -> None:
    """Build ``arch`` once, and ask it once.

    Raises RefusalError: the library is not there or has no such net, or the net does not take such images.
    """
    images = f"{channels} x {size} x {size} pixels"
    hint = "Give larger images, another side (larger ones are reduced to it), or another arch."
    try:
        with torch.random.fork_rng(), torch.no_grad():
            answer = Reference(arch, classes, channels, size)(torch.zeros(2, channels, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RefusalError(f"{arch} does not take images of {images}: {first}", hint) from error
    if not isinstance(answer, Tensor) or answer.shape != (2, classes):
        raise RefusalError(f"{arch} does not answer images of {images} with {classes} logits.", hint)


def _make(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    library, _, name = arch.partition(":")
    return LIBRARIES[library](name, classes, channels, size)


def _torchvision(name: str, classes: int, channels: int, size: int) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    _demand(name, models.list_models(module=models), "torchvision")
    more: dict[str, Any] = {}
    if name.startswith("vit_"):
        more = {"image_size": size}
    elif name.startswith("maxvit_"):
        more = {"input_size": (size, size)}
    elif name in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": True}
    net: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more)
    if channels != len(MEAN):
        _take_channels(net, channels)
    return net


def _take_channels(net: nn.Module, channels: int) -> None:
    """Put a new first convolution in: torchvision's nets are for three channels."""
    place, first = next((place, part) for place, part in net.named_modules() if isinstance(part, nn.Conv2d))
    kernel, stride, padding = (_pair(given) for given in (first.kernel_size, first.stride, first.padding))
    bias = first.bias is not None
    net.set_submodule(place, nn.Conv2d(channels, first.out_channels, kernel, stride, padding, bias=bias))


def _pair(given: Any) -> tuple[int, int]:
    return int(given[0]), int(given[1])


def _timm(name: str, classes: int, channels: int, size: int) -> nn.Module:
    timm = _imported_timm()
    if name.partition(".")[0] != name and timm.is_model(name):
        raise RefusalError(
            f"timm:{name} names trained weights, and the net is trained here from new ones.",
            f"Write timm:{name.partition('.')[0]}.",
        )
    _demand(name, timm.list_models(), "timm")
    make: Callable[..., nn.Module] = timm.create_model
    try:
        return make(name, pretrained=False, num_classes=classes, in_chans=channels, img_size=size)
    except TypeError:  # a net that takes images of any size does not know the argument
        return make(name, pretrained=False, num_classes=classes, in_chans=channels)


def _imported_timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise RefusalError(f"timm cannot be imported ({error}).", 'Install it: pip install "ismn-cli[timm]"') from error


def _demand(name: str, known: list[str], library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        meant = f"Near it: {', '.join(f'{library}:{other}' for other in near)}. " if near else ""
        raise RefusalError(
            f"{library} has no classifier called '{name}'.", f"{meant}It has {len(known)}: {library}.list_models()."
        )


LIBRARIES: dict[str, Callable[[str, int, int, int], nn.Module]] = {"torchvision": _torchvision, "timm": _timm}
"""(name, classes, channels, pixels a side) -> the net, for images that are normalised."""
