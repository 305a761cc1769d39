"""Settings of defensive distillation. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from ismn_models.classifiers.config import HardenedConfig


@dataclass(frozen=True)
class DistillationConfig(HardenedConfig):
    """Temperature and epochs of Carlini and Wagner's re-implementation; the rest is the base's own training.

    There, teacher and student share one epoch at temperature 1, since a loss on softened logits alone hardly
    moves a new net. Here the loss is multiplied by the temperature instead.
    """

    temperature: Annotated[float, Gt(0)] = 100.0
    """Divides the logits of teacher and student while they are trained. The student answers at 1."""
    teacher_epochs: Annotated[int, Ge(1)] = 50
    student_epochs: Annotated[int, Ge(1)] = 50
