"""What an experiment tracker is: told of a run's settings and figures while it goes on. See docs/trackers.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue


class Tracker(Protocol):
    """Something that keeps the figures of one run. What it raises is reported once, and it is told nothing more."""

    def hparams(self, values: Mapping[str, JsonValue]) -> None:
        """Take the resolved recipe, nested as in the run's record; before the first figure."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Take one figure; it may be NaN or infinite. No name is told twice at one step."""

    def close(self) -> None:
        """Take leave: the run has ended, well or not. After a kill it is not called."""


class Opener(Protocol):
    """What ``--track`` names: a class or a function that gives a tracker, called by keywords."""

    def __call__(self, *, run: str, folder: Path, step: int) -> Tracker:
        """Return the tracker of the run with this id, whose own folder is ``folder``.

        ``step`` is the first that will be told. Whatever was told of this run from it on is void: it came from
        a process that was killed, or from one that told the same before.
        """
        ...


Openers = Mapping[str, Opener]
"""Trackers to be opened, by the name they were asked for."""
