"""The losses of the mapping network, each a named term that can be switched off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.parallel import std, summed
from ismn_models.pipeline import Classify


def reconstruction(x: Tensor, *regenerated: Tensor) -> Tensor:
    """Eq. 3 with the square restored, summed over several regenerations of x (DDSA's two terms).

    As printed, (1/n) sum (x - R(x')) has no lower bound: an output of +infinity minimises it.
    """
    return torch.stack([(x - r).square().mean() for r in regenerated]).sum()


def guidance(classify: Classify, x: Tensor, regenerated: Tensor) -> Tensor:
    """HGD's logit guidance: mean |z(R(x')) - z(x)| on the frozen base classifier, in clean standard deviations."""
    with torch.no_grad():
        wanted = classify(x).float()
    got = classify(regenerated).float()
    return (got - wanted).abs().mean() / std(wanted).clamp_min(1e-6)


def adversarial(logits: Tensor) -> Tensor:
    """The generator's part: -E log D(R(x'))."""
    return nn.functional.softplus(-logits).mean()


def discrimination(clean: Tensor, regenerated: Tensor, attacked: Tensor) -> Tensor:
    """The discriminator's part: x is real; R(x') and the attacked x' are fakes of half weight each."""
    softplus = nn.functional.softplus
    return softplus(-clean).mean() + 0.5 * softplus(regenerated).mean() + 0.5 * softplus(attacked).mean()


class InstanceSparsity(nn.Module):
    """Sparsity of each sample's code, the "instance sparsity" of the name."""

    scale: Tensor

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu
        self.register_buffer("scale", torch.tensor(0.0))

    def forward(self, code: Tensor) -> Tensor:
        """Return mean_i max(0, a_i / s - mu)^2 with a_i the mean of sample i's code [N, units].

        s is the running mean of positive activations, so that mu is a share of active units at any scale. The
        batch's own mean takes over where it is larger: a code that outgrows a lagging s would make the square
        explode and tear the network apart.
        """
        code = code.float()
        with torch.no_grad():
            activity, active = summed(code.sum(), (code > 0).sum())
            positive = activity / active.clamp_min(1)
            self.scale.copy_(positive if self.scale == 0 else 0.99 * self.scale + 0.01 * positive)
            scale = torch.maximum(self.scale, positive).clamp_min(1e-6)
        activity = code.mean(1) / scale
        return (activity - self.mu).clamp_min(0).square().mean()
