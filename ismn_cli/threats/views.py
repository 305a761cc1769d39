"""Knowledge levels: on which modules an attacker may build. This is all that a level decides.

==========  ======================================================================================
gray        the bare base classifier; the defence is never touched
black       the whole system's outputs without gradients, or systems of the attacker's own (transfer)
white       the whole system end to end, its gradients as they are
adaptive    each of the defence's surrogates, the whole system, and the bare classifier
==========  ======================================================================================

The judge is the whole system in every case.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ismn_cli.core.specs import Knowledge
from ismn_cli.engine.averaged import Averaged
from ismn_models.pipeline import Defence, Pipeline

BARE = "bare classifier"
SYSTEM = "system"
OUTPUTS = "outputs"
TRANSFER = "transfer"


def views(
    pipeline: Pipeline, knowledge: Knowledge, sources: Sequence[Pipeline] = (), eot: int = 1
) -> dict[str, nn.Module]:
    """Return what an attacker who knows this much may build on, by name, in the order to be tried.

    ``sources`` are the attacker's own systems at level black. With ``eot`` above 1 each look at a system that
    draws at random is averaged over so many draws.
    """
    if knowledge is Knowledge.GRAY:
        return {BARE: pipeline.base}
    if knowledge is Knowledge.BLACK:
        return {TRANSFER: Together(sources)} if sources else {OUTPUTS: Outputs(pipeline)}
    if knowledge is Knowledge.WHITE:
        return {SYSTEM: Averaged(pipeline, eot) if eot > 1 else pipeline}
    found: dict[str, nn.Module] = {
        name: Averaged(surrogate, eot) if eot > 1 and surrogate.drawn else surrogate
        for name, surrogate in pipeline.surrogates().items()
    }
    if pipeline.defence.policy == "route":
        # The gate itself is no surrogate: a route's gradient stops where the gate flips.
        found[SYSTEM] = pipeline
    return found if _undefended(pipeline) else found | {BARE: pipeline.base}


def _undefended(pipeline: Pipeline) -> bool:
    return type(pipeline.defence) is Defence and pipeline.classifier is pipeline.base


class Outputs(nn.Module):
    """A system that answers and shows no gradient. A refused input still shows its logits."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.training = pipeline.training

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K] of the answers to x [N, C, H, W]."""
        logits: Tensor = self.pipeline(x)
        return logits


class Together(nn.Module):
    """Several systems attacked at once: the mean of their log-probabilities (Liu et al. 2017, ensembles).

    Each is seen through the first of its surrogates, which has gradients whatever the defence is made of.
    """

    def __init__(self, systems: Sequence[Pipeline]) -> None:
        super().__init__()
        self.surrogates = nn.ModuleList(next(iter(system.surrogates().values())) for system in systems)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities [N, K] for x [N, C, H, W]."""
        logits = [surrogate(x) for surrogate in self.surrogates]
        return torch.stack([each.float().log_softmax(1) for each in logits]).mean(0)
