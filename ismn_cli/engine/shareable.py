"""Whether a training may be shared by several processes without becoming another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.engine.parallel import Ranks
from ismn_cli.engine.rng import isolated, seed_everything
from ismn_models.crafting import evaluating
from ismn_models.joint_layers import joint_layers
from ismn_models.parallel import sharing, whole
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

TOLERANCE = 1e-3
"""Of a net's answers, beside the largest of them; sums in another order are a thousand times closer."""
_OTHERWISE = "Train it without torchrun, in one process."


def check_shareable(stages: Sequence[Stage], pipeline: Pipeline, shape: Shape, ranks: Ranks) -> None:
    """Raise UsageError where several processes would train another system than one does, or have nothing to do."""
    if ranks.size == 1:
        return
    for stage in stages:
        if stage.epochs and not stage.shareable:
            raise UsageError(f"The stage '{stage.name}' cannot be shared by several processes.", _OTHERWISE)
        if stage.epochs and stage.batch_size < ranks.size:
            raise UsageError(
                f"The stage '{stage.name}' has batches of {stage.batch_size}, too small for {ranks.size} processes.",
                f"Start {stage.batch_size} of them at most, or train with larger batches.",
            )
    for net in _trained(stages, pipeline):
        if not same_answers(net, shape, ranks):
            raise UsageError(
                f"{type(net).__name__} does not answer the same where several processes share a batch: it draws at "
                "random, or looks at the batch, by other layers than torch's dropout and batch normalisation.",
                _OTHERWISE,
            )


def _trained(stages: Sequence[Stage], pipeline: Pipeline) -> list[nn.Module]:
    """Return the classifiers of ``pipeline`` that ``stages`` train."""
    optimisers = [optimiser for stage in stages if stage.epochs for optimiser in stage.optimisers]
    owned = {id(p) for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]}
    nets = dict.fromkeys((pipeline.base, pipeline.classifier))
    return [net for net in nets if any(id(p) in owned for p in net.parameters())]


def same_answers(net: nn.Module, shape: Shape, ranks: Ranks) -> bool:
    """Whether what ``net`` answers in a step that is shared is what it answers in one process, by a small batch.

    All come to the same answer. The net, its mode and the random streams are as before.
    """
    device = next(net.parameters()).device
    n = 2 * ranks.size + 1
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, shape.channels, shape.size, shape.size, generator=generator).to(device)
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    rows = ranks.rows(n, device)
    with isolated(0), torch.no_grad(), evaluating(net), joint_layers([net]):
        try:
            alone = _look(net, x, kept)
            with sharing(rows):
                shared = _look(net, x if rows is None else x[rows.own], kept)
        except RuntimeError:  # a layer that makes something else of the first axis
            return False
        finally:
            _put_back(net, kept)
    return all(_close(one, other) for one, other in zip(alone, shared, strict=True))


def _look(net: nn.Module, x: Tensor, buffers: dict[str, Tensor]) -> list[Tensor]:
    """Return the logits of all rows, in both modes, the buffers after them, and a number that was drawn then."""
    _put_back(net, buffers)
    seed_everything(0)
    logits = [whole(net.train(training)(x).float()) for training in (True, False)]
    return [*logits, *(buffer.clone() for buffer in net.buffers()), torch.rand(1), torch.rand(1, device=x.device)]


def _put_back(net: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in net.named_buffers():
        buffer.copy_(buffers[name])


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = TOLERANCE * float(one.abs().max()) if one.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=TOLERANCE, atol=scale)
