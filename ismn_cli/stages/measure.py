"""What a system does on clean images: its accuracy, and how often its detector calls them suspicious."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.engine.fit import OnProgress
    from ismn_models.pipeline import Pipeline

BATCH = 100


def clean_figures(
    pipeline: Pipeline, images: ImageSet, device: torch.device, on_progress: OnProgress
) -> dict[str, float]:
    """Return "clean accuracy" (right and not rejected), "false-positive rate" where there is a detector, "images".

    Beside them the number of "classes", the "balanced accuracy" and the "majority-class rate".
    """
    from ismn_cli.core.balance import balanced_accuracy, majority_rate
    from ismn_cli.engine.judge import judge

    answers, _ = judge(pipeline, _batches(images, device, on_progress))
    labels, n = images.labels.tolist(), max(len(images), 1)
    columns = zip(answers.predicted, answers.rejected, labels, strict=True)
    right = [predicted == label and not rejected for predicted, rejected, label in columns]
    figures = {
        "clean accuracy": sum(right) / n,
        "balanced accuracy": balanced_accuracy(labels, right),
        "majority-class rate": majority_rate(labels),
        "classes": float(len(set(labels))),
        "images": float(len(images)),
    }
    if pipeline.defence.policy in ("reject", "route"):
        figures["false-positive rate"] = sum(answers.flagged) / n
    return figures


def _batches(images: ImageSet, device: torch.device, on_progress: OnProgress) -> Iterator[Tensor]:
    import torch

    from ismn_cli.engine.fit import Progress
    from ismn_models.training import batch_for

    size = batch_for(images, BATCH)
    steps = -(-len(images) // size)
    for step, (x, _) in enumerate(images.batches(size)):
        yield x.to(device, memory_format=torch.channels_last)
        on_progress(Progress("test images", 0, 1, step + 1, steps, {}))
