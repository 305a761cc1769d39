"""Long work, shown: a bar with running score and time left; without a terminal, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from ismn_cli.cli.console import people, say

if TYPE_CHECKING:
    from ismn_cli.engine.fit import Progress as Training
    from ismn_cli.stages.matrix import MatrixProgress

LINE_EVERY = 15.0
"""Seconds between lines where there is no terminal."""


class Display:
    """Shows progress while its block runs. ``now`` is the clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._bar = _Bar() if people().is_terminal else _Lines(now)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def training(self, progress: Training) -> None:
        """Show where a training stands."""
        epoch = f" {progress.epoch + 1}/{progress.epochs}" if progress.epochs > 1 else ""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
        done = progress.epoch * progress.steps + progress.step
        total = progress.epochs * progress.steps
        self._bar.show(progress.stage, f"{progress.stage}{epoch}", done, total, figures)

    def matrix(self, progress: MatrixProgress) -> None:
        """Show where a matrix stands."""
        score = ", ".join(f"{count} {name}" for name, count in sorted(progress.score.items()))
        self._bar.show(progress.stage, progress.label, progress.done, progress.total, score, progress.share)

    def measuring(self, label: str, done: int, total: int) -> None:
        """Show whose memory is being found."""
        self._bar.show("memory", label, done, total, "")

    def pairs(self, done: int, total: int) -> None:
        """Show how many pairs of images are compared."""
        self._bar.show("pairs", "comparing images", done, total, "")


class _Bar:
    """A bar for each stage."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.drawn = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=people(),
        )
        self.tasks: dict[str, int] = {}

    def start(self) -> None:
        self.drawn.start()

    def stop(self) -> None:
        self.drawn.stop()

    def show(self, key: str, label: str, done: int, total: int, figures: str, share: float | None = None) -> None:
        from rich.progress import TaskID

        if key not in self.tasks:
            self.tasks[key] = self.drawn.add_task(label, total=1.0, count="", figures="")
        task, count = TaskID(self.tasks[key]), f"{done}/{total}"
        completed = _share(done, total, share)
        self.drawn.update(task, description=label, completed=completed, count=count, figures=figures)


class _Lines:
    """A line at the start and end of a stage, and now and then between."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.last, self.key, self.began = now, float("-inf"), "", (0.0, 0.0)

    def start(self) -> None:
        """Nothing to prepare."""

    def stop(self) -> None:
        """Nothing to clear."""

    def show(self, key: str, label: str, done: int, total: int, figures: str, share: float | None = None) -> None:
        now, worked = self.now(), _share(done, total, share)
        if key != self.key:
            self.key, self.last, self.began = key, float("-inf"), (now, worked)
        if now - self.last < LINE_EVERY and done < total:
            return
        self.last = now
        say(", ".join(filter(None, (f"{label}: {done}/{total}", figures, self._left(now, worked)))))

    def _left(self, now: float, worked: float) -> str:
        since, first = self.began
        if worked <= first or worked >= 1:
            return ""
        return f"{(now - since) / (worked - first) * (1 - worked):.0f} s left"


def _share(done: int, total: int, share: float | None) -> float:
    """Return how much of the work is done: ``share`` where it is known, else that of what is counted."""
    if share is not None:
        return share
    return done / total if total else 1.0
