"""Notes on ceilings: what the images allow, and which figures, measured or quoted, lie above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.published import Ceiling, ceiling
from ismn_cli.reporting.sections import KNOWLEDGE
from ismn_cli.reporting.table import Row

SHOWN = 3
REASON = (
    "Some images of different classes are so alike that both can be turned into the one half-way between them, and one "
    "answer there cannot be right for both."
)
WHY = {
    "gray": "An attacker who does not know the defence may well miss it: such a figure says nothing about robustness.",
    "black": "An attacker without gradients may well miss it: such a figure says nothing about robustness.",
    "white": "The attack is too weak for this system: look for hidden gradients, and read the adaptive figures.",
    "adaptive": "The attack is too weak for this system: more steps, restarts or draws.",
}


def ceilings(cells: Sequence[Row]) -> Iterator[str]:
    """Explain the ceilings, where any is below 100 %."""
    tops: dict[tuple[float, str], float] = {}
    for row in cells:
        if row["ceiling"] is not None:
            size = row["eps"], _size(row)
            tops[size] = max(row["ceiling"], tops.get(size, 0))
    bounds = [f"{top:.1f} % at {size}" for (_, size), top in sorted(tops.items()) if top < 100]
    if bounds:
        yield (
            "Ceiling: of these images a classifier that always answers, whatever it is, can hold at most "
            f"{', '.join(bounds)} against every perturbation of that size. {REASON} A system may exceed it only by "
            "refusing, where refusals are not counted as wrong."
        )


def above(cells: Sequence[Row]) -> Iterator[str]:
    """Flag, by knowledge level, the strict figures above the ceiling: compared as counts, on the same images."""
    levels: dict[str, list[Row]] = {}
    for row in cells:
        if row["ceiling_images"] is not None and row["accuracy_hits"] > row["ceiling_images"]:
            levels.setdefault(row["knowledge"], []).append(row)
    for level, rows in levels.items():
        yield (
            f"Above the ceiling, {KNOWLEDGE[level]}: {_named(rows, 'accuracy')}. On these images an attack of that "
            f"size exists that leaves less, and this one did not find it: robustness of that height is impossible "
            f"for a classifier that always answers. {WHY[level]}"
        )


def claimed(cells: Sequence[Row]) -> Iterator[str]:
    """Flag the papers' figures above the ceiling."""
    rows = [row for row in cells if None not in (row["paper"], row["ceiling"]) and row["paper"] > row["ceiling"]]
    if rows:
        yield (
            f"Above the ceiling, in the paper: {_named(rows, 'paper')}. As robustness against every perturbation of "
            "that size this is impossible for a classifier that always answers, on images like these. It may be "
            "accuracy under an attacker who does not know the defence, refusals counted as right, or another scale "
            "of eps."
        )


def elsewhere(cells: Sequence[Row]) -> Iterator[str]:
    """Tell the ceilings of CIFAR-10's test images at large sizes, where those of the rows' own images are not known."""
    tops: dict[float, Ceiling] = {}
    for row in cells:
        if row["attack"] is not None and row["ceiling"] is None:
            top = ceiling(row["dataset"], row["norm"], row["eps"])
            tops |= {top.eps: top} if top else {}
    bounds = [f"{100 * top.accuracy:.1f} % at {format_eps(eps)} ({top.images:,})" for eps, top in sorted(tops.items())]
    if bounds:
        yield (
            f"eps {format_eps(min(tops))} and more is far above the usual 8/255: against a worst-case "
            "attacker no deterministic classifier that always answers can exceed "
            f"{', '.join(bounds)}, on that many CIFAR-10 test images. "
            "A higher figure shows only that the attack is not the worst."
        )


def _named(rows: Sequence[Row], figure: str) -> str:
    """Name the highest of ``rows`` with their figure and ceiling."""
    highest = sorted(rows, key=lambda row: -row[figure])
    named = [
        f"{row[figure]:.1f} % of {row['defence']} under {row['attack']} {_size(row)} (ceiling {row['ceiling']:.1f} %)"
        for row in highest[:SHOWN]
    ]
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(named) + more


def _size(row: Row) -> str:
    return row["level"] if row["norm"] == "linf" else f"{row['norm']} {row['level']}"
