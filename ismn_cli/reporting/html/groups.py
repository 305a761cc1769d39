"""Rows of the table that may stand side by side, and which of them a page shows first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from ismn_cli.reporting.sections import IMAGES, Section, defence_labels, sections, title, values
from ismn_cli.reporting.seeds import over_seeds
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

_SYSTEM = ("defence", "defence_weights")
NORMS = {"linf": "L∞", "l2": "L2"}


@dataclass(frozen=True)
class Group:
    """All rows on the same images and classifier; cells of several seeds are one row."""

    title: str
    rows: tuple[Row, ...]
    sections: tuple[Section, ...]

    @cached_property
    def systems(self) -> dict[tuple[object, ...], str]:
        """The systems in order of appearance, with their labels."""
        return dict(zip((values(row, _SYSTEM) for row in self.rows), defence_labels(self.rows), strict=True))

    def place(self, row: Row) -> int:
        """Return the place of the row's system among all, which its colour goes by."""
        return list(self.systems).index(values(row, _SYSTEM))

    def label(self, row: Row) -> str:
        """Return the label of the row's system."""
        return self.systems[values(row, _SYSTEM)]

    def norms(self) -> list[str]:
        """Return the norms that were attacked in."""
        return list(dict.fromkeys(row["norm"] for row in self.rows if row["attack"] is not None))

    def sizes(self, norm: str) -> list[float]:
        """Return every eps of ``norm`` that was attacked at, in ascending order."""
        return sorted({row["eps"] for row in self.rows if row["attack"] is not None and row["norm"] == norm})

    def clean(self) -> dict[str, Row]:
        """Return a row that tells each system's clean accuracy, by label."""
        systems = self.systems
        return {systems[values(row, _SYSTEM)]: row for row in reversed(self.rows)}

    def worst(self, norm: str) -> dict[tuple[str, float], Row]:
        """Return the worst case by system and size: over all levels, of the only level, or the only attack."""
        systems, found = self.systems, {}
        rows = [row for row in self.rows if row["attack"] is not None and row["norm"] == norm]
        for row in sorted(rows, key=_reach):
            found[systems[values(row, _SYSTEM)], row["eps"]] = row
        return found

    def hardest(self, norm: str) -> Iterator[tuple[str, Row]]:
        """Yield each system with the attacked cell at the smallest eps that left it the lowest accuracy."""
        sizes = self.sizes(norm)
        systems = self.systems
        for system, label in systems.items():
            cells = [row for row in self.cells(norm) if values(row, _SYSTEM) == system and row["eps"] == sizes[0]]
            known = [row for row in cells if row["accuracy"] is not None]
            if known:
                yield label, min(known, key=lambda row: float(row["accuracy"]))

    def cells(self, norm: str) -> list[Row]:
        """Return the attacked cells in ``norm``."""
        return [row for row in self.rows if row["attack"] and row["attacks"] is None and row["norm"] == norm]


def groups(rows: Sequence[Row]) -> list[Group]:
    """Return the rows by images and classifier, in order of appearance."""
    together = over_seeds(rows)
    parted: dict[tuple[object, ...], list[Section]] = {}
    for section in sections(together):
        parted.setdefault(values(next(iter(section.clean.values())), IMAGES), []).append(section)
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in together:
        found.setdefault(values(row, IMAGES), []).append(row)
    return [Group(_title(same[0], together), tuple(same), tuple(parted.get(key, ()))) for key, same in found.items()]


def _title(row: Row, everything: Sequence[Row]) -> str:
    return title(row, "", everything).replace(", ,", ",").removesuffix(", ")


def _reach(row: Row) -> int:
    return 2 if row["knowledge"] == ALL else int(row["attacks"] is not None)


def method(row: Row) -> str:
    """Return the attack of ``row``, and whether its examples were made elsewhere."""
    return f"{row['attack']}{' transferred' if row['sources'] else ''}"


def figure(row: Row, name: str) -> float | None:
    """Return a rate of ``row`` in percent; of several seeds the mean."""
    members = [member for member in row.get("members", (row,)) if member[name] is not None]
    if not members:
        return None
    if len(members) == 1:
        return float(members[0][name])
    return round(100 * fmean(member[f"{name}_hits"] / member[f"{name}_total"] for member in members), 1)
