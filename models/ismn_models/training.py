"""What a training stage is. A system is trained stage by stage; the engine owns the loop around them.

All randomness of a stage comes from torch's global generator, which the engine seeds afresh for every epoch and
for `finish`: a run that was killed and continued at an epoch's end gives the same weights.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ismn_models.images import Images
from ismn_models.parallel import drawn, share, sum_gradients

BATCH = 250
"""Images at a time where nothing is trained."""
BATCH_PIXELS = 2**20
"""Most pixels at a time there: `BATCH` images of up to 64 pixels a side, 64 of 128, 4 of 512."""


def batch_for(images: Images, most: int = BATCH) -> int:
    """Return how many of ``images`` to take at a time where nothing is trained, ``most`` unless they are large."""
    height, width = images.pixels.shape[-2:]
    return min(most, max(1, BATCH_PIXELS // (height * width)))


class Stage(ABC):
    """One stage of a training schedule: some epochs of `step`, then `finish`.

    ``modules`` are trained here but belong to no released system (a discriminator, say). They are checkpointed
    with the stage; the system's own parameters are checkpointed with the system.
    """

    name: str
    epochs: int = 0
    batch_size: int = 128
    optimisers: tuple[Optimizer, ...] = ()
    modules: tuple[nn.Module, ...] = ()
    tell: Callable[[int, int], None] | None = None
    """Set by the engine: called with (images done, of all) while `finish` works."""
    shareable: bool = False
    """Whether several processes may take a step together, each on its own rows of the batch: all that is drawn, and
    all that is no mean over the batch, goes through `ismn_models.parallel`, and `descend` takes the step."""
    mirror: bool = True
    """Set by the engine: whether a mirrored image is still of its class (see `Images`)."""

    def augment(self, x: Tensor, pixels: int = 4) -> Tensor:
        """Return x [N, C, H, W], each image shifted at random and, where that keeps its class, mirrored."""
        return flip_and_shift(x, pixels, self.mirror)

    def watched(
        self, images: Images, most: int = BATCH, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of ``images``, all or those at ``order`` [M], and tell how far it is; see `batch_for`."""
        done, total = 0, len(images) if order is None else len(order)
        for x, y in images.batches(batch_for(images, most), order):
            yield x, y
            done += len(y)
            if self.tell is not None:
                self.tell(done, total)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """Prepare epoch ``epoch`` (from 0)."""

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """Take one optimiser step.

        ``x`` [N, C, H, W] in [0, 1] is not augmented; ``index`` [N] are the positions in the training set;
        ``progress`` in [0, 1) is the share of the stage's steps already taken. Returns figures to show, each a mean
        over the batch. Where the step is shared, N are the rows that are this process's; see `shareable`.
        """
        raise NotImplementedError

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Fit what needs the whole set (thresholds, linear heads). Returns figures to record."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything needed to continue after an epoch, apart from the system's own parameters."""
        return {
            "optimisers": [o.state_dict() for o in self.optimisers],
            "modules": [m.state_dict() for m in self.modules],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for module, saved in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(saved)

    def kept(self) -> dict[str, Any]:
        """What later stages need of this one when it is finished, apart from the system's own parameters."""
        return {}

    def load_kept(self, state: dict[str, Any]) -> None:
        """Take back what `kept` gave, where this stage was finished before the run was cut."""


def set_lr(optimiser: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def descend(
    optimiser: Optimizer, loss: Tensor, lr: float, clip: float | None = None, by_group: bool = False
) -> None:
    """Take one step down ``loss``; with ``clip``, the gradient, or that of each parameter group, is no longer.

    ``loss`` is a mean over the batch. Where the step is shared, it is one over the rows that are this process's.
    """
    set_lr(optimiser, lr)
    optimiser.zero_grad(set_to_none=True)
    weight = share()
    (loss if weight == 1 else weight * loss).backward()  # type: ignore[no-untyped-call]
    groups = [group["params"] for group in optimiser.param_groups]
    sum_gradients([p for group in groups for p in group])
    if clip is not None:
        for parameters in groups if by_group else [[p for group in groups for p in group]]:
            nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()


def warmup_cosine(progress: float, warmup: float = 0.1) -> float:
    """Return the learning-rate factor in [0, 1]: linear warm-up, then half a cosine to zero."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def flip_and_shift(x: Tensor, pixels: int = 4, mirror: bool = True) -> Tensor:
    """Shift each image [N, C, H, W] by up to ``pixels``, zero-padded, and mirror it with probability 1/2.

    Without ``mirror`` it is only shifted: the mirror image of a 2 is no 2.

    Channels move together: stack a clean and an attacked image along C to augment both alike.
    """
    n, _, h, w = x.shape
    padded = nn.functional.pad(x, (pixels,) * 4)
    shift = drawn(lambda m: torch.randint(0, 2 * pixels + 1, (2, m, 1), device=x.device), n, dim=1)
    rows = torch.arange(h, device=x.device) + shift[0]
    columns = torch.arange(w, device=x.device) + shift[1]
    mirrored = drawn(lambda m: torch.rand(m, 1, device=x.device), n) < (0.5 if mirror else 0.0)
    columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups with weight decay on weights only, not on biases or norms."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
