"""A picture of a page with what stands around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ismn_cli.reporting.html.svg import MARKERS


@dataclass(frozen=True)
class Entry:
    """One line of a legend: the series' place among all, and its name."""

    place: int
    name: str
    plain: bool = False
    """A line of reference, which no series is."""


@dataclass(frozen=True)
class Plot:
    """A drawn panel; ``svg`` is safe to be set into the page as it is."""

    title: str
    svg: str


@dataclass(frozen=True)
class Panels:
    """Panels that share a legend, and what is to be said about them."""

    title: str
    plots: tuple[Plot, ...]
    legend: tuple[Entry, ...]
    remark: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one system: x, y in percent, and the interval of each y where there is one."""

    place: int
    name: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float, float], ...] = ()
    """(x, low, high)"""


def legend(series: Sequence[Series], *references: str) -> tuple[Entry, ...]:
    """Return the legend of ``series``, each system once, then lines of reference."""
    found = {entry.place: Entry(entry.place, entry.name) for entry in series}
    return (*(found[place] for place in sorted(found)), *(Entry(-1, name, plain=True) for name in references))


def marker(place: int) -> str:
    """Return matplotlib's marker of the series at ``place``."""
    return MARKERS[place % len(MARKERS)]


def told(series: Sequence[Series], x: str, y: str) -> str:
    """Return the figures of a panel in words, for those who do not see it."""
    return " ".join(_told(series, x, y))


def _told(series: Sequence[Series], x: str, y: str) -> Iterator[str]:
    yield f"{y} against {x}."
    for entry in series[:24]:
        if entry.points:
            (first, start), (last, end) = entry.points[0], entry.points[-1]
            yield f"{entry.name}: {start:.1f} at {first:.4g}, {end:.1f} at {last:.4g}."
