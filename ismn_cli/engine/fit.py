"""The training loop: stages in order, epochs in order, a checkpoint after each, the same weights after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ismn_cli.core.files import replace_atomically
from ismn_cli.engine.parallel import ALONE, Ranks
from ismn_cli.engine.rng import derive, seed_everything
from ismn_models.images import Images
from ismn_models.parallel import figures as over_the_batch
from ismn_models.parallel import sharing
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
    ranks: Ranks = ALONE,
) -> dict[str, dict[str, float]]:
    """Train ``pipeline`` through ``stages``; continue from ``checkpoint`` if it exists.

    Every epoch is seeded from (seed, stage, epoch), so where a run was cut makes no difference to its weights.
    ``ranks`` take each step together; the first of them alone reads and writes ``checkpoint`` and tells of progress.
    Returns each stage's closing figures.
    """
    position = _restore(checkpoint, pipeline, ranks)
    figures: dict[str, dict[str, float]] = position["figures"]
    kept: dict[str, dict[str, Any]] = position.get("kept", {})
    with ranks.joint([pipeline, *(module for stage in stages for module in stage.modules)]):
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
                closing = _epoch(stage, epoch, train, seed, precision, on_progress, ranks)
                if ranks.leads:
                    _save(checkpoint, pipeline, figures, kept, stage, epoch + 1, closing)
            seed_everything(derive(seed, stage.name, "finish"))
            stage.tell = _telling(stage.name, on_progress)
            # A run that continues here has not been through an epoch that would have set the mode: batch norm
            # left in training mode would go on learning.
            pipeline.eval()
            figures[stage.name] = closing | stage.finish(train, validation)
            kept[stage.name] = _as_first(stage, pipeline, ranks)
            if ranks.leads:
                _save(checkpoint, pipeline, figures, kept)
    return figures


def _as_first(stage: Stage, pipeline: Pipeline, ranks: Ranks) -> dict[str, Any]:
    """Return what is kept of a finished ``stage``. All have closed it alike, and go on with what the first has."""
    kept = stage.kept()
    if ranks.size > 1:
        found = ranks.from_first({"parts": _parts(pipeline), "kept": kept})
        kept = found["kept"]
        if not ranks.leads:
            load_parts(pipeline, found["parts"])
            stage.load_kept(kept)
    return kept


def _telling(name: str, on_progress: OnProgress) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(Progress(f"{name}, closing", 0, 1, done, total, {}))


def _epoch(
    stage: Stage,
    epoch: int,
    train: Images,
    seed: int,
    precision: Precision,
    on_progress: OnProgress,
    ranks: Ranks,
) -> dict[str, float]:
    """Run one epoch; return the mean of each figure."""
    seed_everything(derive(seed, stage.name, epoch))
    stage.begin_epoch(epoch, train)
    order = torch.randperm(len(train), device=train.labels.device)
    chunks = [c for c in torch.split(order, stage.batch_size) if len(c) > 1 or len(order) == 1]
    sums: dict[str, float] = {}
    for step, index in enumerate(chunks):
        progress = (epoch + step / len(chunks)) / stage.epochs
        rows = ranks.rows(len(index), index.device)
        own = index if rows is None else index[rows.own]
        with precision(), sharing(rows):
            figures = over_the_batch(stage.step(train.floats(own), train.labels[own], own, progress))
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
        "parts": _parts(pipeline),
        "figures": figures,
        "kept": kept,
        "stage": stage.name if stage else None,
        "epochs": epochs,
        "closing": closing or {},
        "state": stage.state() if stage else {},
    }
    replace_atomically(path, lambda temporary: torch.save(content, temporary))


def _restore(path: Path, pipeline: Pipeline, ranks: Ranks) -> dict[str, Any]:
    """Load the checkpoint of the first of ``ranks`` into ``pipeline`` and return the loop's position."""
    content: dict[str, Any] = {"figures": {}, "stage": None, "epochs": 0, "state": {}}
    if ranks.leads and path.exists():
        content = torch.load(path, weights_only=True, map_location="cpu")
    elif ranks.size > 1:
        content["parts"] = _parts(pipeline)
    content = ranks.from_first(content)
    if "parts" in content:
        load_parts(pipeline, content["parts"])
    return content


def _parts(pipeline: Pipeline) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in pipeline.parts().items()}


def load_parts(pipeline: Pipeline, parts: dict[str, Any]) -> None:
    """Give the parts of ``pipeline`` the weights of a checkpoint's ``parts``."""
    for name, part in pipeline.parts().items():
        part.load_state_dict(parts[name])
