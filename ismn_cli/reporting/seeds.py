"""Cells that differ in nothing but the seed, as one: the mean over the seeds, the least and the most."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ismn_cli.reporting.columns import IDENTITY
from ismn_cli.reporting.layout import UNDEFINED, Lines
from ismn_cli.reporting.table import Row

_SAME = tuple(column.name for column in IDENTITY if column.name != "seed")
_SUMS = ("unknown", "detected", "accuracy_hits", "accuracy_rejected_success_hits")


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return ``rows`` with the attacked cells of several seeds as one row, in the place of the first.

    Such a row has "seeds", their names, and "members", the rows that it stands for; its counts of images are sums
    over them.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for position, row in enumerate(rows):
        alone = row["attack"] is None or row["attacks"] is not None
        key = (position,) if alone else tuple(row[name] for name in _SAME)
        groups.setdefault(key, []).append(row)
    return [group[0] if len(group) == 1 else _merged(group) for group in groups.values()]


def spread(members: Sequence[Row], name: str) -> Lines:
    """Return the rate ``name`` of several seeds: "71.2", "mean of 3 seeds", "70.4 to 72.0"."""
    found = [row for row in members if row[name] is not None]
    if not found:
        return UNDEFINED
    mean = 100 * fmean(row[f"{name}_hits"] / row[f"{name}_total"] for row in found)
    least, most = (pick(row[name] for row in found) for pick in (min, max))
    return f"{mean:.1f}", f"mean of {len(found)} seeds", f"{least:.1f} to {most:.1f}"


def _merged(group: Sequence[Row]) -> Row:
    sums = {name: sum(row[name] for row in group) for name in _SUMS}
    seeds = "+".join(str(row["seed"]) for row in group)
    return {**group[0], **sums, "seed": None, "seeds": seeds, "members": list(group)}
