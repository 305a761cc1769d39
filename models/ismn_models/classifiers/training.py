"""Training of a plain classifier on clean images: the base network f_T."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.classifiers.table1 import Table1
from ismn_models.images import Images
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.training import Stage, decayed, flip_and_shift, set_lr, warmup_cosine


def build(config: ClassifierConfig, num_classes: int, channels: int, base: nn.Module | None = None) -> Pipeline:
    """Return the undefended system."""
    return Pipeline(base or Table1(num_classes, channels, config.padding), Defence())


def stages(pipeline: Pipeline, config: ClassifierConfig) -> list[Stage]:
    """Return the training schedule of the undefended system."""
    return [CleanTraining(pipeline.base, config)]


class CleanTraining(Stage):
    """SGD with Nesterov momentum and a cosine schedule on CE(z / temperature), flips and shifts."""

    name = "base"

    def __init__(self, net: nn.Module, config: ClassifierConfig) -> None:
        self.net, self.config = net, config
        self.epochs, self.batch_size = config.epochs, config.batch_size
        groups = decayed(net, config.weight_decay)
        self.optimisers = (torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True),)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        (optimiser,) = self.optimisers
        set_lr(optimiser, self.config.lr * warmup_cosine(progress))
        self.net.train()
        logits = self.net(flip_and_shift(x)).float()
        loss = nn.functional.cross_entropy(
            logits / self.config.temperature, y, label_smoothing=self.config.label_smoothing
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        optimiser.step()
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == y).float().mean().item()}

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """See `Stage.finish`."""
        self.net.eval()
        return {"validation accuracy": accuracy(self.net, validation)}


def accuracy(net: nn.Module, images: Images, batch_size: int = 250) -> float:
    """Return the share of ``images`` that ``net`` labels right."""
    with torch.no_grad():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in images.batches(batch_size))
    return right / max(len(images), 1)
