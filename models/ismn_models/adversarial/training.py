"""Adversarial training: min over theta of E[max over |delta| <= eps of CE(f(x + delta), y)] (Madry et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ismn_models.adversarial.config import AdversarialConfig, RobustConfig
from ismn_models.classifiers.hardened import Hardening
from ismn_models.classifiers.training import accuracy
from ismn_models.crafting import evaluating, pgd
from ismn_models.images import Images
from ismn_models.parallel import agreed
from ismn_models.pipeline import Pipeline
from ismn_models.training import BATCH, Stage, batch_for

MEASURED = 1000
"""Validation images that the closing figures are taken on."""
MEASURING_STEPS = 10
"""Of the PGD that measures, each eps/4 long."""
WATCHED = 256
"""Training images on which one-step training is watched, once an epoch."""
FALL = 0.2
"""A fall of the watched accuracy from one epoch to the next that is a collapse, not noise (Wong et al.'s rule)."""


def stages(pipeline: Pipeline, config: AdversarialConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    return [AdversarialTraining(pipeline, config)]


class CollapseGuard(nn.Module):
    """Watches one-step training for catastrophic overfitting: PGD accuracy gone from one epoch to the next.

    Wong et al. 2020 stop there and keep the weights of the epoch before. As a module, it is checkpointed.
    """

    last: Tensor
    kept_epochs: Tensor
    collapsed: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.kept = copy.deepcopy(net).requires_grad_(False)
        self.register_buffer("last", torch.tensor(0.0))
        self.register_buffer("kept_epochs", torch.tensor(0))
        self.register_buffer("collapsed", torch.tensor(False))

    def check(self, net: nn.Module, accuracy: float, epochs: int) -> None:
        """Keep ``net`` as it is after ``epochs`` epochs, or give it back the weights from before its collapse."""
        if self.collapsed:
            return
        if accuracy < self.last - FALL:
            self.collapsed.fill_(True)
            net.load_state_dict(self.kept.state_dict())
            return
        self.kept.load_state_dict(net.state_dict())
        self.last.fill_(accuracy)
        self.kept_epochs.fill_(epochs)


class RobustTraining(Hardening):
    """Training against attacks, measured by PGD at its end."""

    config: RobustConfig

    def __init__(self, pipeline: Pipeline, config: RobustConfig) -> None:
        super().__init__(pipeline, config, config.epochs)
        self.config = config

    def robust_accuracy(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Return the share of images [n, C, H, W] that are labelled right after PGD of `MEASURING_STEPS` steps."""
        right, n, eps = 0, 0, self.config.eps
        with evaluating(self.net):
            for x, y in batches:
                attacked = pgd(self.net, x, y, eps, MEASURING_STEPS, eps / 4)
                with torch.no_grad():
                    right += int((self.net(attacked).argmax(1) == y).sum())
                n += len(y)
        return right / max(n, 1)

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Return the accuracy on the first thousand validation images, clean and under PGD."""
        self.net.eval()
        measured = validation.take(slice(MEASURED))
        return {
            "validation accuracy, clean": accuracy(self.net, measured),
            f"validation accuracy, PGD-{MEASURING_STEPS}": self.robust_accuracy(self.watched(measured, BATCH)),
        }


class AdversarialTraining(RobustTraining):
    """SGD on the cross-entropy of attacked images alone. The attack sees the net in eval mode."""

    name = "adversarial"
    shareable = True
    config: AdversarialConfig

    def __init__(self, pipeline: Pipeline, config: AdversarialConfig) -> None:
        super().__init__(pipeline, config)
        self.guard = CollapseGuard(self.net) if config.method == "fast" else None
        self.modules = (self.guard,) if self.guard else ()

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`."""
        super().begin_epoch(epoch, train)
        if epoch > 0:
            self._watch(epoch, train)

    def _watch(self, epochs: int, train: Images) -> None:
        if self.guard:
            accuracy = self.robust_accuracy(train.take(slice(WATCHED)).batches(batch_for(train)))
            self.guard.check(self.net, agreed(accuracy), epochs)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`. After a collapse nothing is trained any more."""
        if self.guard and self.guard.collapsed:
            return {}
        attacked = self.attack(self.augment(x), y)
        self.net.train()
        logits = self.net(attacked).float()
        loss = nn.functional.cross_entropy(logits, y)
        self.descend(loss, progress)
        figures = {"loss": loss.item(), "accuracy, attacked": (logits.argmax(1) == y).float().mean().item()}
        return figures | ({"PGD accuracy, last epoch": float(self.guard.last)} if self.guard else {})

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the training attack on x [N, C, H, W] in [0, 1] with labels y [N]."""
        return pgd(self.net, x, y, self.config.eps, self.config.attack_steps(), self.config.attack_step_size())

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """See `RobustTraining.finish`; also the epochs that count, where one-step training collapsed after them."""
        self._watch(self.epochs, train)
        figures = super().finish(train, validation)
        if self.guard and self.guard.collapsed:
            figures["epochs before the collapse"] = float(self.guard.kept_epochs)
        return figures
