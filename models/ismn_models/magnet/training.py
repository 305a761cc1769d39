"""MagNet's schedule: the autoencoders on noisy clean images, then the thresholds. It never sees an attack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.magnet.config import MagnetConfig
from ismn_models.magnet.system import Magnet, Screen
from ismn_models.pipeline import Pipeline
from ismn_models.training import BATCH, Stage, batch_for, descend


def stages(pipeline: Pipeline, config: MagnetConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    if not isinstance(pipeline.defence, Magnet):
        raise TypeError(f"not a MagNet pipeline: {type(pipeline.defence).__name__}")
    return [AutoencoderStage(pipeline.base, pipeline.defence, config)]


class FixedNoise:
    """Standard normal noise of a training set, one draw per image for all epochs.

    Half precision, and rebuilt from its seed rather than checkpointed: for CIFAR-10 it takes 276 MB. Where it would
    take more than `images.KEPT_BYTES`, each image's noise is drawn from a seed of its own whenever it is wanted.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self._table: Tensor | None = None
        self._shape: torch.Size | None = None

    def prepare(self, train: Images) -> None:
        """Draw the noise for ``train``; the first time also its seed, from torch's global generator."""
        if self.seed is None:
            self.seed = int(torch.randint(2**62, ()))
        self._shape = train.pixels.shape[1:]
        if self._table is None and train.may_keep(torch.float16.itemsize):
            generator = torch.Generator(train.pixels.device).manual_seed(self.seed)
            empty = torch.empty(train.pixels.shape, dtype=torch.float16, device=train.pixels.device)
            self._table = empty.normal_(generator=generator)

    def at(self, index: Tensor) -> Tensor:
        """Return the noise of images ``index`` [N], float32 [N, C, H, W]."""
        if self.seed is None or self._shape is None:
            raise RuntimeError("prepare the noise first")
        if self._table is None:
            drawn = [_normal(self.seed + number, self._shape) for number in index.tolist()]
            return torch.stack(drawn).to(index.device)
        return self._table[index.to(self._table.device)].to(index.device).float()


def _normal(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class AutoencoderStage(Stage):
    """Adam on MSE(AE(clip(x + v n)), x) with n drawn once per image, plus the activity regulariser.

    Several autoencoders are trained side by side on the sum of their losses.
    """

    name = "autoencoder"
    shareable = True

    def __init__(self, base: nn.Module, defence: Screen, config: MagnetConfig) -> None:
        self.base, self.defence, self.config = base, defence, config
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.nets = defence.autoencoders_used()
        self.optimisers = (torch.optim.Adam([p for net in self.nets for p in net.parameters()], config.lr),)
        self.noise = FixedNoise()

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`."""
        self.noise.prepare(train)
        self.defence.train()

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`. No augmentation, as in the original: the noise belongs to the image."""
        noisy = (x + self.defence.design.noise * self.noise.at(index)).clamp_(0, 1)
        activities = [net.activities(noisy) for net in self.nets]
        rebuilt = torch.stack([each[-1] for each in activities])
        activity = torch.stack([a.float().square().sum() for each in activities for a in each]).sum() / len(x)
        loss = self.error(rebuilt, x) + self.config.activity_weight * activity
        descend(self.optimisers[0], loss, self.config.lr)
        rebuilt = rebuilt.detach()
        return {"loss": loss.item(), "mse": (rebuilt - x).square().mean().item()} | self.figures(rebuilt)

    def error(self, rebuilt: Tensor, x: Tensor) -> Tensor:
        """Return the sum over autoencoders of the mean squared error of ``rebuilt`` [A, N, C, H, W]."""
        return len(rebuilt) * (rebuilt - x).square().mean()

    def figures(self, rebuilt: Tensor) -> dict[str, float]:
        """Return more figures to show."""
        return {}

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Fit the thresholds; return the autoencoder's error, the accuracy behind it and what is rejected."""
        self.base.requires_grad_(False).eval()
        self.defence.eval()
        self.defence.calibrate((x for x, _ in self.watched(validation, BATCH)), self.base)
        return measure(self.base, self.defence, validation)

    def state(self) -> dict[str, Any]:
        """See `Stage.state`; the noise is kept as its seed."""
        return super().state() | {"noise": self.noise.seed}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Stage.load_state`."""
        super().load_state(state)
        self.noise.seed = state["noise"]


@torch.no_grad()
def measure(base: nn.Module, defence: Screen, images: Images) -> dict[str, float]:
    """Return the closing figures on clean ``images``; for accuracy, rejected images pass."""
    error, right, rejected = 0.0, 0, 0
    for x, y in images.batches(batch_for(images)):
        error += (defence.rebuild(x) - x).square().mean().item() * len(x)
        decision = defence.decide(x, base)
        right += int((decision.logits.argmax(1) == y).sum())
        rejected += int(decision.rejected.sum())
    n = max(len(images), 1)
    return {
        "validation mse": error / n,
        "validation accuracy, reformed": right / n,
        "false-positive rate": rejected / n,
    }
