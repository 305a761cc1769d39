"""What a run tells its trackers: a training its curves, a matrix its cells and worst cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ismn_cli.core.records import CellResult
from ismn_cli.stages.tracking import Tracking

if TYPE_CHECKING:
    import torch

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.engine.fit import OnProgress, Progress
    from ismn_models.pipeline import Pipeline
    from ismn_models.training import Stage

_LOG = logging.getLogger("ismn")
POINTS = 10
"""Of each curve, in an epoch. One of a training's steps is as much of an epoch, whatever the size of its batches."""
VALIDATION = 500
"""Validation images, at most, that accuracy is measured on after an epoch."""
_RATES = ("clean_accuracy", "accuracy", "robust_accuracy", "robust_rejected_success")
_INTERVALS = tuple(f"{rate}{end}" for rate in _RATES for end in ("", "_low", "_high"))
_COSTS = ("forwards_per_image", "backwards_per_image", "queries_per_image", "attack_ms", "latency_ms")
COLUMNS = (*_INTERVALS, "detection", "false_positive", "success", "auroc", "unknown", *_COSTS)
"""The columns of a report that a matrix tells, where a row has them."""


class Curves:
    """Listens to a training. Its epochs are counted through all stages, so that no step comes twice."""

    def __init__(
        self, tracking: Tracking, pipeline: Pipeline, stages: Sequence[Stage], validation: ImageSet
    ) -> None:
        """Take what is trained, its schedule, and the images that accuracy is measured on."""
        self._tracking, self._pipeline = tracking, pipeline
        self._validation: ImageSet | None = validation.take(slice(VALIDATION))
        self._stages = {stage.name: stage for stage in stages}
        *before, self._epochs = accumulate((stage.epochs for stage in stages), initial=0)
        self._before = dict(zip(self._stages, before, strict=True))

    def beside(self, on_progress: OnProgress) -> OnProgress:
        """Return ``on_progress`` with the trackers told too."""
        if not self._tracking.wanted():
            return on_progress

        def both(progress: Progress) -> None:
            on_progress(progress)
            self._hear(progress)

        return both

    def end(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Tell the closing figures of each stage and those of the test images."""
        told = {f"closing/{part}/{name}": value for part, own in figures.items() for name, value in own.items()}
        self._tracking.tell(told, self._epochs * POINTS + 1)

    def _hear(self, progress: Progress) -> None:
        stage, steps = self._stages.get(progress.stage), progress.steps
        point, last = (done * POINTS // steps for done in (progress.step, progress.step - 1))
        if stage is None or point == last or not self._tracking.wanted():
            return
        figures = progress.figures | _rates_of(stage)
        if point == POINTS:
            figures |= self._measured()
        told = {f"{stage.name}/{name}": value for name, value in figures.items()}
        self._tracking.tell(told, (self._before[stage.name] + progress.epoch) * POINTS + point)

    def _measured(self) -> dict[str, float]:
        """Return the accuracy of the system as it stands; nothing where it cannot answer yet."""
        from ismn_cli.stages.measure import clean_figures

        if self._validation is None:
            return {}
        try:
            found = clean_figures(self._pipeline, self._validation, self._device(), lambda _: None)
        except Exception as error:  # a system half trained need not be one that decides
            _LOG.warning("No accuracy is measured after an epoch (%s: %s).", type(error).__name__, error)
            self._validation = None
            return {}
        return {"validation accuracy": found["clean accuracy"]}

    def _device(self) -> torch.device:
        return next(self._pipeline.parameters()).device


def _rates_of(stage: Stage) -> dict[str, float]:
    """Return the learning rate of each optimiser."""
    rates = [optimiser.param_groups[0]["lr"] for optimiser in stage.optimisers]
    return {"lr" if i == 0 else f"lr {i + 1}": float(rate) for i, rate in enumerate(rates)}


def tell_cells(tracking: Tracking, results: Sequence[CellResult]) -> None:
    """Tell the figures of cells, by the names of a report's columns."""
    from ismn_cli.reporting.table import cell_rows

    if tracking.wanted():
        _tell_rows(tracking, cell_rows(results))


def tell_worst(tracking: Tracking, results: Sequence[CellResult]) -> None:
    """Tell the worst cases over the cells of a matrix."""
    from ismn_cli.reporting.worst_rows import worst_rows

    if tracking.wanted():
        _tell_rows(tracking, worst_rows(results))


def _tell_rows(tracking: Tracking, rows: Sequence[Mapping[str, object]]) -> None:
    for row in rows:
        names = [row["defence"], row["knowledge"], row.get("attack"), row.get("norm"), row.get("level")]
        place = " ".join(str(name) for name in names if name not in (None, "linf"))
        found = {name: row.get(name) for name in COLUMNS}
        tracking.tell({f"{place}/{k}": v for k, v in found.items() if isinstance(v, int | float)}, 0)
