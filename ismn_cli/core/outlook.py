"""What a recipe would do, and what it would take: printed by `ismn run RECIPE --plan`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedSystem:
    """A system of a matrix."""

    name: str
    origin: str
    """Where its weights come from, or why there are none."""
    ready: bool
    """Whether it has weights, or will have them once the recipe's trainings are done."""
    cells: int
    stored: int
    """Cells that are stored already."""


@dataclass(frozen=True)
class PlannedTraining:
    """A training."""

    name: str
    system: str
    base: str
    """Where its base classifier comes from."""
    images: int
    epochs: dict[str, int]
    """Of each stage."""
    done: str | None
    """The run, where it is finished already."""


@dataclass(frozen=True)
class Footprint:
    """The memory of one step of a training, or of one gradient step of an attack."""

    system: str
    step: str
    batch_size: int
    peak: int | None
    """Bytes of all tensors at the worst moment; None where it cannot be told."""
    fits: int | None
    """The largest batch for which memory suffices; None where it cannot be told."""
    note: str = ""


@dataclass(frozen=True)
class Outlook:
    """A recipe's plan."""

    recipe: str
    dataset: str
    images: int
    """Images to be evaluated."""
    systems: tuple[PlannedSystem, ...]
    trainings: tuple[PlannedTraining, ...]
    footprints: tuple[Footprint, ...]
    memory: int | None
    """Bytes free on the device."""
    device: str
