"""The memory of a training's steps, and of an attack's on a system, at their batch sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from ismn_cli.core.outlook import Footprint
from ismn_cli.core.specs import Knowledge
from ismn_models.shape import Shape

if TYPE_CHECKING:
    from torch import nn

    from ismn_cli.engine.fit import Precision
    from ismn_models.training import Stage

_LOG = logging.getLogger("ismn")

USABLE = 0.75
"""Share of the free memory that a step's tensors may fill: a process was seen to take up to three tenths more."""

Schedule = Callable[[], "list[Stage]"]
Views = Callable[[], "Mapping[str, nn.Module]"]
PeakAt = Callable[[int], int]
"""batch size -> bytes"""


@dataclass(frozen=True)
class Place:
    """So many ``images`` of one ``shape``; ``memory`` in bytes, None where it is not known."""

    shape: Shape
    images: int
    memory: int | None


class StageFacts(NamedTuple):
    """What a stage says about itself."""

    name: str
    epochs: int
    batch_size: int


def stage_facts(schedule: Schedule) -> list[StageFacts]:
    """Return the stages of a training, which are built without contents."""
    from ismn_cli.engine.memory import peak_bytes

    found: list[StageFacts] = []
    peak_bytes(lambda: found.extend(StageFacts(stage.name, stage.epochs, stage.batch_size) for stage in schedule()))
    return found


def training_footprints(name: str, schedule: Schedule, place: Place, precision: Precision) -> Iterator[Footprint]:
    """Yield the memory of one step of each stage that has any, at its own batch size.

    ``schedule`` builds the system and returns its stages; it is called anew for each figure, without contents. The
    figures count the whole system, the optimisers, and what is kept of the training set beside the images.
    """
    for number, stage in enumerate(stage_facts(schedule)):
        if stage.epochs:
            peak_at = partial(_training_peak, schedule, number, place, precision)
            batch_size = min(stage.batch_size, place.images)
            yield _footprint(name, f"training, {stage.name}", peak_at, batch_size, place.memory)


def _training_peak(schedule: Schedule, number: int, place: Place, precision: Precision, batch_size: int) -> int:
    from ismn_cli.engine.dry_run import train_a_step
    from ismn_cli.engine.memory import peak_bytes

    return peak_bytes(lambda: train_a_step(schedule()[number], place.shape, place.images, batch_size, precision))


def attack_footprint(name: str, knowledge: Knowledge, views: Views, place: Place, batch_size: int) -> Footprint:
    """Return the memory of an attack's gradient step through the dearest of ``views``, which is called anew each time.

    It counts the system as well. A view that cannot run without contents runs with them, on one and two images.
    """
    from ismn_cli.engine.memory import peak_bytes

    names: list[str] = []
    peak_bytes(lambda: names.extend(views()))
    step, peaks = f"attack, {knowledge}", {view: _peak_of(views, view, place.shape) for view in names}
    known = {view: _footprint(name, step, peak_at, batch_size, None, view) for view, peak_at in peaks.items()}
    dearest = max(names, key=lambda view: known[view].peak or 0)
    if known[dearest].peak is None:
        return known[dearest]
    return _footprint(name, step, peaks[dearest], batch_size, place.memory, dearest)


def _peak_of(views: Views, view: str, shape: Shape) -> PeakAt:
    from ismn_cli.engine.dry_run import attack_a_step
    from ismn_cli.engine.memory import peak_bytes

    @cache
    def measured(n: int, contents: bool) -> int:
        return peak_bytes(lambda: attack_a_step(views()[view], shape, n), contents=contents)

    def peak_at(n: int) -> int:
        try:
            return measured(n, False)
        except Exception as error:  # whatever it does with numbers may fail in any way without them
            _LOG.debug("%s runs with contents: %s", view, error)
            one, two = measured(1, True), measured(2, True)
            return one + (n - 1) * (two - one)

    return peak_at


def _footprint(
    system: str, step: str, peak_at: PeakAt, batch_size: int, memory: int | None, note: str = ""
) -> Footprint:
    from ismn_cli.engine.memory import largest_batch

    known = cache(peak_at)
    try:
        peak = known(batch_size)
        fits = None if memory is None else largest_batch(known, batch_size, int(USABLE * memory))
    except Exception as error:  # see above: a figure less, no reason to give up the others
        _LOG.debug("%s, %s", step, error, exc_info=True)
        reason = type(error).__name__
        return Footprint(system, step, batch_size, None, None, f"it goes by what images show ({reason})")
    return Footprint(system, step, batch_size, peak, fits, note)
