"""The lines of a defence in a comparison: one figure, or one for each accounting of its refusals and draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ismn_cli.reporting.figures import rate, refuses
from ismn_cli.reporting.layout import MISSING, Lines
from ismn_cli.reporting.seeds import spread
from ismn_cli.reporting.table import Row

REFUSALS = {"accuracy_rejected_success": "rejected = success", "accuracy_answered": "answered only"}
DRAWS = {"accuracy_mean": "mean of {k}", "accuracy_worst_draw": "worst of {k}", "accuracy_majority": "majority of {k}"}
_WORST = {"accuracy": "robust_accuracy", "accuracy_rejected_success": "robust_rejected_success"}
"""What a worst case has for the rate of a cell; it has no other."""


@dataclass(frozen=True)
class Line:
    """A defence, the rate that accounts for it, and how that is called where there are several."""

    defence: str
    rate: str
    name: str

    def label(self) -> Lines:
        """Return the heading of the line."""
        return (self.defence, f"({self.name})") if self.name else (self.defence,)

    def clean(self, row: Row) -> Lines:
        """Return the clean accuracy of ``row`` in this accounting of draws."""
        return rate(row, f"clean_{self.rate}" if self.rate in DRAWS else "clean_accuracy")

    def attacked(self, row: Row | None) -> Lines:
        """Return the figure of ``row`` under attack, and how many images are unknown."""
        if row is None:
            return MISSING
        name = self.rate if row["attacks"] is None else _WORST.get(self.rate)
        if name is None:
            return MISSING
        unknown = (f"{row['unknown']:,} unknown",) if row["unknown"] else ()
        return (spread(row["members"], name) if "members" in row else rate(row, name)) + unknown


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
