"""How fast a model is, timed on a few groups of images, and how many passes an attack makes, counted without it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.children import forks, one_thread, processes
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import Attack, craft_batch
from ismn_cli.engine.groups import SIZE, groups
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import isolated
from ismn_models.pipeline import Reading, Surrogate

BATCHES = 3
"""Timed after one that is not: the first pass pays for what is set up once."""
SIDE = 16
"""Pixels of the images that passes are counted on: their number does not go by it."""


@dataclass(frozen=True)
class Pace:
    """Seconds for an image."""

    forward: float
    both: float
    """Forward and back to the image; as long as forward alone where a model gives no gradient."""

    def seconds(self, forwards: float, backwards: float) -> float:
        """Return the seconds for so many passes."""
        return forwards * self.forward + backwards * (self.both - self.forward)


def pace(
    model: nn.Module, x: Tensor, images: int | None = None, clock: Callable[[], float] = time.perf_counter
) -> Pace:
    """Time ``model`` on x [N, C, H, W] in [0, 1], in groups as an attack shows them; medians of `BATCHES`.

    It is that of the processes together that attack so many ``images``, by default those of x, side by side.
    """
    apart = forks(x)
    count = processes(x[:1].expand(images or len(x), *x.shape[1:])) if apart else 1
    parts = [x[rows] for rows in groups(x)]
    shown = [parts[i % len(parts)] for i in range(BATCHES + 1)]
    counted = Counted(model, whole_groups=True)
    with evaluating(model, frozen=True), isolated(0), one_thread() if apart else nullcontext():
        counted.eval()
        forward = _median(lambda part: _forward(counted, part), shown, clock)
        both = _median(lambda part: _both(counted, part), shown, clock)
    return Pace(forward / count, max(both, forward) / count)


def _median(step: Callable[[Tensor], None], parts: list[Tensor], clock: Callable[[], float]) -> float:
    taken = []
    for part in parts:
        start = clock()
        step(part)
        if part.is_cuda:
            torch.cuda.synchronize(part.device)
        taken.append((clock() - start) / len(part))
    return statistics.median(taken[1:])


def _forward(model: Counted, x: Tensor) -> None:
    with torch.no_grad():
        model.look(x)


def _both(model: Counted, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    logits, margin = model.look(x)
    total = logits.sum() if margin is None else logits.sum() + margin.sum()
    if total.requires_grad:
        torch.autograd.grad(total, x, allow_unused=True)


def passes_of(
    attack: Attack, threat: ThreatModel, channels: int, classes: int, *, guarded: bool = False, falls: bool = False
) -> tuple[int, int]:
    """Return how many passes forward and backward the attack makes on one image that holds throughout, or ``falls``.

    It is counted on a classifier that nothing moves, or one that anything does, ``guarded`` by a detector that flags
    nothing where one stands in the attack's way.
    """
    firm = _Linear(channels * SIDE * SIDE, classes, slope=10.0 if falls else 1e-4)
    model: nn.Module = Surrogate(firm, firm.read) if guarded else firm
    x = torch.full((SIZE, channels, SIDE, SIDE), 0.5)  # a whole group: none of them is there to fill it up
    crafted = craft_batch(model.eval(), attack, x, torch.zeros(SIZE, dtype=torch.int64), threat, 0)
    return crafted.forwards // SIZE, crafted.backwards // SIZE


class _Linear(nn.Module):
    """Answers the first class on grey by far; whether another is near hangs on the ``slope``."""

    def __init__(self, pixels: int, classes: int, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope * torch.randn(pixels, classes, generator=torch.Generator().manual_seed(0)))
        self.first = nn.Parameter(10 * torch.eye(classes)[0] - 0.5 * self.slope.detach().sum(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K]."""
        logits: Tensor = x.flatten(1) @ self.slope + self.first
        return logits

    def read(self, x: Tensor) -> Reading:
        """Return logits, and a margin below 0 throughout."""
        logits = self(x)
        return Reading(logits, logits[:, 1] - 10)
