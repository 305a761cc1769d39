"""Defensive distillation: a teacher at temperature T, then a student of its soft labels at the same T.

The student's logits end up about T times as large as they need to be. At T = 1 its softmax saturates in float32 and
the cross-entropy has no gradient left, which is the whole defence (Carlini and Wagner 2017).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ismn_models.classifiers.hardened import Hardening
from ismn_models.distillation.config import DistillationConfig
from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.training import BATCH, Stage


def stages(pipeline: Pipeline, config: DistillationConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    return [TeacherStage(pipeline, config), StudentStage(pipeline, config)]


class Distilling(Hardening):
    """SGD on T CE(z / T, wanted); the factor keeps the gradient from shrinking as 1/T."""

    shareable = True

    def __init__(self, pipeline: Pipeline, config: DistillationConfig, epochs: int) -> None:
        super().__init__(pipeline, config, epochs)
        self.temperature = config.temperature

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        x = self.augment(x)
        self.net.train()
        logits = self.net(x).float()
        loss = nn.functional.cross_entropy(logits / self.temperature, self.wanted(x, y))
        self.descend(self.temperature * loss, progress)
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == y).float().mean().item()}

    def wanted(self, x: Tensor, y: Tensor) -> Tensor:
        """Return what to learn for x [N, C, H, W] with labels y [N]: classes [N], or shares of them [N, K]."""
        raise NotImplementedError

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Return the accuracy, and on how many images the softmax is 1 in float32: no gradient there."""
        self.net.eval()
        right, saturated = 0, 0
        for x, y in self.watched(validation, BATCH):
            with torch.no_grad():
                likelihoods = self.net(x).float().log_softmax(1)
            right += int((likelihoods.argmax(1) == y).sum())
            saturated += int((likelihoods.amax(1) == 0).sum())
        n = max(len(validation), 1)
        return {"validation accuracy": right / n, "saturated softmax": saturated / n}


class TeacherStage(Distilling):
    """The teacher learns the labels. It stands in the student's place: there it is checkpointed as long as needed."""

    name = "teacher"

    def __init__(self, pipeline: Pipeline, config: DistillationConfig) -> None:
        super().__init__(pipeline, config, config.teacher_epochs)

    def wanted(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Distilling.wanted`: the labels."""
        return y


class StudentStage(Distilling):
    """The student learns softmax(teacher / T) of the same augmented images."""

    name = "student"

    def __init__(self, pipeline: Pipeline, config: DistillationConfig) -> None:
        super().__init__(pipeline, config, config.student_epochs)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.modules = (self.teacher,)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`. What was trained so far becomes the teacher."""
        if epoch == 0:
            self.teacher.load_state_dict(self.net.state_dict())
        super().begin_epoch(epoch, train)
        self.teacher.eval()

    def wanted(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Distilling.wanted`: the teacher's soft labels."""
        with torch.no_grad():
            soft: Tensor = (self.teacher(x).float() / self.temperature).softmax(1)
        return soft
