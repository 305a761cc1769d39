"""What guides the denoiser: how far the frozen classifier is from seeing the clean image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss

from ismn_models.hgd.config import Guidance
from ismn_models.refusal import RefusalError

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``loss(denoised, clean, labels)``: a scalar, and the logits [N, K] of the denoised images."""

OTHERWISE = "Leave guidance out: logits can guide with any classifier."


class TopMap:
    """The last map that a convolutional net makes: [N, maps, h, w] with more than one pixel, before any pooling to one.

    Whatever module gives it, of any net: blocks count with what they add and cut off after their convolutions.
    """

    def __init__(self, net: nn.Module) -> None:
        """Raises RefusalError where ``net`` has no convolution."""
        if not any(isinstance(module, nn.Conv2d) for module in net.modules()):
            raise RefusalError("The classifier has no convolution to take features from.", OTHERWISE)
        self.net = net

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map and the logits [N, K]. Raises RefusalError where there is no such map."""
        found = list[Tensor]()

        def watch(module: nn.Module, _: object, output: object) -> None:
            # What comes before the first convolution is the image, rescaled perhaps.
            if (found or isinstance(module, nn.Conv2d)) and isinstance(output, Tensor) and _is_map(output):
                found[:] = [output]

        hooks = [module.register_forward_hook(watch) for module in self.net.modules()]
        try:
            logits = self.net(x)
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            raise RefusalError("The classifier's maps have one pixel: there are no features to take.", OTHERWISE)
        return found[0], logits


def _is_map(output: Tensor) -> bool:
    return output.ndim == 4 and output.shape[-2:].numel() > 1


def guiding(guidance: Guidance, base: nn.Module) -> Loss:
    """Return the loss. Raises RefusalError where ``base`` cannot guide in this way."""
    if guidance == "features":
        return partial(_features, TopMap(base))
    return partial({"logits": _logits, "pixels": _pixels, "labels": _labels}[guidance], base)


def _logits(base: nn.Module, denoised: Tensor, clean: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        wanted = base(clean).float()
    logits = base(denoised).float()
    return l1_loss(logits, wanted), logits


def _features(top: TopMap, denoised: Tensor, clean: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        wanted, _ = top(clean)
    found, logits = top(denoised)
    return l1_loss(found.float(), wanted.float()), logits


def _pixels(base: nn.Module, denoised: Tensor, clean: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits = base(denoised)
    return l1_loss(denoised, clean), logits


def _labels(base: nn.Module, denoised: Tensor, clean: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = base(denoised).float()
    return cross_entropy(logits, labels), logits
