"""The latent z of a classifier, whichever it is: where LAD looks for the boundary and what it generates from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ismn_models.classifiers.celebanet import CelebANet
from ismn_models.crafting import evaluating
from ismn_models.refusal import RefusalError

Latent = Callable[[Tensor], Tensor]


def latent_of(net: nn.Module) -> Latent:
    """Return the function from images [N, C, n, n] to latents z [N, d], without gradients and in eval mode.

    CelebANet's are the 4,096 numbers after its first dense layer. That layer's ReLU works in place in the public
    code, so that what it reads there as the layer's output is rectified: here too. Any other net's are the input of
    the last linear layer that an image passes through: the rectified dense layer of Table 1 (1,024), the pooled
    features of a ResNet (512) or WRN-28-10 (640). A reduction of large images before the net is part of the way.
    """
    watched = _watched(net)

    @torch.no_grad()
    def read(x: Tensor) -> Tensor:
        passed: list[Tensor] = []
        handles = [m.register_forward_pre_hook(lambda _, given: passed.append(given[0])) for m in watched]
        try:
            with evaluating(net):
                net(x)
        finally:
            for handle in handles:
                handle.remove()
        if not passed:
            raise RefusalError("LAD needs a classifier with a linear layer.", "Train it around another classifier.")
        return passed[-1].flatten(1).float()

    return read


def _watched(net: nn.Module) -> list[nn.Module]:
    """Return the modules of which the last one to be called is given the latents."""
    for module in net.modules():
        if isinstance(module, CelebANet):
            return [module.head[1]]  # the dropout after the ReLU, which does nothing in evaluation mode
    return [module for module in net.modules() if isinstance(module, nn.Linear)]
