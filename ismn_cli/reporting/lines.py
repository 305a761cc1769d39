"""The lines of a defence in a comparison: one figure, or one for each accounting of its refusals and draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ismn_cli.reporting.figures import rate, refuses
from ismn_cli.reporting.layout import MISSING, Lines
from ismn_cli.reporting.seeds import spread
from ismn_cli.reporting.table import Row

REFUSALS = {"accuracy_rejected_success": "rejected = success", "accuracy_answered": "answered only"}
DRAWS = {"accuracy_mean": "mean of {k}", "accuracy_worst_draw": "worst of {k}", "accuracy_majority": "majority of {k}"}
_WORST = {"accuracy": "robust_accuracy", "accuracy_rejected_success": "robust_rejected_success"}
"""What a worst case has for the rate of a cell; it has no other."""
CEILING = "ceiling"


@dataclass(frozen=True)
class Line:
    """A defence, the rate that accounts for it, and how that is called where there are several.

    With the rate "ceiling" it is no defence: the most that any classifier can reach, by any row of its images.
    """

    defence: str
    rate: str
    name: str

    def label(self) -> Lines:
        """Return the heading of the line."""
        return (self.defence, f"({self.name})") if self.name else (self.defence,)

    def clean(self, row: Row | None) -> Lines:
        """Return the clean accuracy of ``row`` in this accounting of draws."""
        if row is None or self.rate == CEILING:
            return MISSING
        return rate(row, f"clean_{self.rate}" if self.rate in DRAWS else "clean_accuracy")

    def among(self, rows: Mapping[str, Row]) -> Row | None:
        """Return the row of this line among ``rows`` by defence, all of one attack and size."""
        if self.rate == CEILING:
            return next((row for row in rows.values() if row[CEILING] is not None), None)
        return rows.get(self.defence)

    def attacked(self, row: Row | None) -> Lines:
        """Return the figure of ``row`` under attack, and how many images are unknown."""
        if row is None:
            return MISSING
        if self.rate == CEILING:
            return (f"{row[CEILING]:.1f}",)
        name = self.rate if row["attacks"] is None else _WORST.get(self.rate)
        if name is None:
            return MISSING
        unknown = (f"{row['unknown']:,} unknown",) if row["unknown"] else ()
        return (spread(row["members"], name) if "members" in row else rate(row, name)) + unknown

    def paper(self, row: Row | None) -> Lines:
        """Return the paper's figure beside that of ``row``."""
        if row is None or row["paper"] is None or self.rate == CEILING:
            return MISSING
        return (f"{row['paper']:.1f}",)


def lines_of(defence: str, rows: Iterable[Row]) -> Iterator[Line]:
    """Yield the lines that ``defence`` needs, by its attacked ``rows``."""
    attacked = list(rows)
    refusing = any(refuses(row) for row in attacked)
    asked = max((row["draws"] for row in attacked if row["accuracy_mean"] is not None), default=1)
    names = ["strict"] * refusing + [f"first of {asked} draws"] * (asked > 1)
    yield Line(defence, "accuracy", ", ".join(names))
    for name, words in (REFUSALS if refusing else {}).items():
        yield Line(defence, name, words)
    for name, words in (DRAWS if asked > 1 else {}).items():
        yield Line(defence, name, words.format(k=asked))


def ceiling_line(rows: Iterable[Row]) -> list[Line]:
    """Return the line under all defences for the ceiling; none where no ceiling of ``rows`` is known."""
    known = any(row[CEILING] is not None for row in rows)
    return [Line("any classifier", CEILING, "at most")] if known else []
