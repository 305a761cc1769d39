"""An outlook as tables for people: what would be trained, evaluated and computed, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ismn_cli.core.outlook import Footprint, Outlook, PlannedSystem, PlannedTraining

GIB = 2**30
MOST = 1024
"""The largest batch that is looked for."""
REMARK = (
    "A step's memory is that of all its tensors at the worst moment. A process takes more: about half a GiB for Python "
    "and torch, and up to a third for what libraries need inside an operation. The largest batch allows for that."
)


class Sheet(NamedTuple):
    """A table: its title, its headings, its rows, the name first."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def outlook_sheets(outlook: Outlook) -> list[Sheet]:
    """Return the tables of a plan; one that would be empty is left out."""
    return [sheet for sheet in _sheets(outlook) if sheet.rows]


def outlook_headline(outlook: Outlook) -> str:
    """Return what stands above the tables: what there is to do in all."""
    parts = [f"{sum(not training.done for training in outlook.trainings)} trainings to be done"]
    if outlook.systems:
        cells = sum(system.cells - system.stored for system in outlook.systems)
        parts.append(f"{cells:,} cells to compute, {sum(system.stored for system in outlook.systems):,} stored")
    return f"{outlook.recipe}: {'; '.join(parts)}. {outlook.images:,} test images of {outlook.dataset}."


def outlook_lines(outlook: Outlook) -> list[str]:
    """Return what there is to say below the tables."""
    free = "" if outlook.memory is None else f"{_gib(outlook.memory)} GiB are free on {outlook.device}. "
    return [f"{free}{REMARK}", "Nothing was computed. Without --plan it is."]


def _sheets(outlook: Outlook) -> Iterator[Sheet]:
    head = ("training", "system", "base classifier", "images", "epochs", "state")
    yield Sheet("Trainings", head, tuple(map(_training, outlook.trainings)))
    yield Sheet("Systems", ("system", "weights", "cells", "stored"), tuple(map(_system, outlook.systems)))
    head = ("of", "step", "batch", "GiB", "largest batch", "note")
    yield Sheet("Memory of a step", head, tuple(map(_footprint, outlook.footprints)))


def _training(training: PlannedTraining) -> tuple[str, ...]:
    epochs = ", ".join(f"{stage} {number}" for stage, number in training.epochs.items() if number)
    state = f"done, run {training.done}" if training.done else "to be done"
    return training.name, training.system, training.base or "-", f"{training.images:,}", epochs or "-", state


def _system(system: PlannedSystem) -> tuple[str, ...]:
    origin = system.origin if system.ready else f"none. {system.origin}"
    return system.name, origin, str(system.cells), str(system.stored)


def _footprint(each: Footprint) -> tuple[str, ...]:
    peak = "not known" if each.peak is None else _gib(each.peak)
    fits = "" if each.fits is None else f"{each.fits} or more" if each.fits >= MOST else str(each.fits)
    return each.system, each.step, str(each.batch_size), peak, fits, each.note


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
