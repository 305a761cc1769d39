"""The training loop: stages in order, epochs in order, a checkpoint after each, the same weights after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ismn_cli.core.files import replace_atomically
from ismn_cli.engine.rng import derive, seed_everything
from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.training import Stage


@dataclass(frozen=True)
class Progress:
    """Where a training run stands: shown to people, kept nowhere."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    figures: dict[str, float]


OnProgress = Callable[[Progress], None]
Precision = Callable[[], AbstractContextManager[Any]]


def fit(
    pipeline: Pipeline,
    stages: Sequence[Stage],
    train: Images,
    validation: Images,
    *,
    seed: int,
    checkpoint: Path,
    precision: Precision,
    on_progress: OnProgress = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Train ``pipeline`` through ``stages``; continue from ``checkpoint`` if it exists.

    Every epoch is seeded from (seed, stage, epoch), so where a run was cut makes no difference to its weights.
    Returns each stage's closing figures.
    """
    position = _restore(checkpoint, pipeline)
    figures: dict[str, dict[str, float]] = position["figures"]
    kept: dict[str, dict[str, Any]] = position.get("kept", {})
    for stage in stages:
        if stage.name in figures:
            stage.load_kept(kept.get(stage.name, {}))
            continue
        stage.mirror = train.mirror
        done, closing = 0, dict[str, float]()
        if position["stage"] == stage.name:
            stage.load_state(position["state"])
            done, closing = position["epochs"], position["closing"]
        for epoch in range(done, stage.epochs):
            closing = _epoch(stage, epoch, train, seed, precision, on_progress)
            _save(checkpoint, pipeline, figures, kept, stage, epoch + 1, closing)
        seed_everything(derive(seed, stage.name, "finish"))
        stage.tell = _telling(stage.name, on_progress)
        # A run that continues here has not been through an epoch that would have set the mode: batch norm
        # left in training mode would go on learning.
        pipeline.eval()
        figures[stage.name] = closing | stage.finish(train, validation)
        kept[stage.name] = stage.kept()
        _save(checkpoint, pipeline, figures, kept)
    return figures


def _telling(name: str, on_progress: OnProgress) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(Progress(f"{name}, closing", 0, 1, done, total, {}))


def _epoch(
    stage: Stage, epoch: int, train: Images, seed: int, precision: Precision, on_progress: OnProgress
) -> dict[str, float]:
    """Run one epoch; return the mean of each figure."""
    seed_everything(derive(seed, stage.name, epoch))
    stage.begin_epoch(epoch, train)
    order = torch.randperm(len(train), device=train.labels.device)
    chunks = [c for c in torch.split(order, stage.batch_size) if len(c) > 1 or len(order) == 1]
    sums: dict[str, float] = {}
    for step, index in enumerate(chunks):
        progress = (epoch + step / len(chunks)) / stage.epochs
        with precision():
            figures = stage.step(train.floats(index), train.labels[index], index, progress)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value
        running = {name: total / (step + 1) for name, total in sums.items()}
        on_progress(Progress(stage.name, epoch, stage.epochs, step + 1, len(chunks), running))
    return {name: total / len(chunks) for name, total in sums.items()}


def _save(
    path: Path,
    pipeline: Pipeline,
    figures: dict[str, dict[str, float]],
    kept: dict[str, dict[str, Any]],
    stage: Stage | None = None,
    epochs: int = 0,
    closing: dict[str, float] | None = None,
) -> None:
    """Write the checkpoint in one piece: a reader sees the old one or the new one."""
    content = {
        "parts": {name: part.state_dict() for name, part in pipeline.parts().items()},
        "figures": figures,
        "kept": kept,
        "stage": stage.name if stage else None,
        "epochs": epochs,
        "closing": closing or {},
        "state": stage.state() if stage else {},
    }
    replace_atomically(path, lambda temporary: torch.save(content, temporary))


def _restore(path: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Load the checkpoint into ``pipeline`` and return the loop's position."""
    if not path.exists():
        return {"figures": {}, "stage": None, "epochs": 0, "state": {}}
    content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    for name, part in pipeline.parts().items():
        part.load_state_dict(content["parts"][name])
    return content
