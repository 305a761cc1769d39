"""Balanced accuracy and the majority-class rate, for data of few or uneven classes; other tables go without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ismn_cli.core.balance import balanced_accuracy, majority_rate, uneven
from ismn_cli.core.rates import right_clean
from ismn_cli.core.records import CellResult
from ismn_cli.reporting.columns import Column
from ismn_cli.reporting.layout import MISSING, Lines
from ismn_cli.reporting.lines import Line
from ismn_cli.reporting.sections import images_text
from ismn_cli.reporting.table import Row, Value, percent

COLUMNS = (
    Column(
        "clean_balanced_accuracy",
        "Float64",
        "mean over the classes of the share of their images that is right without attack, not refused; percent, "
        "higher is better",
    ),
    Column("majority_class", "Float64", "share of the images that are of the most frequent class; percent"),
)
"""A table has them only where some data set in it is of few or uneven classes: `ismn_cli.core.balance.uneven`."""


def balance_columns(rows: Iterable[Row]) -> tuple[Column, ...]:
    """Return `COLUMNS` where a row has something in them."""
    return COLUMNS if any(row.get("majority_class") is not None for row in rows) else ()


def balanced(line: Line, row: Row | None) -> Lines:
    """Return the balanced accuracy of ``row`` without attack, beside the first ``line`` of its defence."""
    found = row.get("clean_balanced_accuracy") if row is not None and line.rate == "accuracy" else None
    return MISSING if found is None else (f"{found:.1f}",)


def majority(rows: Sequence[Row]) -> Iterator[str]:
    """Say what always giving one answer would reach."""
    for row in rows:
        if row.get("majority_class") is not None:
            place = f"{row['dataset']} {row['split']}, {images_text(row)}"
            yield (
                f"Classes: {row['majority_class']:.1f} % of {place}, are of one class: so much is the clean accuracy "
                "of always answering it. balanced: the mean over the classes of the share of their images that is "
                "right."
            )


def balance_figures(result: CellResult) -> dict[str, Value]:
    """Return the figures of `COLUMNS`; none on many, even classes."""
    share = majority_rate(result.labels)
    if not uneven(len(set(result.labels)), share):
        return {}
    mean = balanced_accuracy(result.labels, right_clean(result))
    return {"clean_balanced_accuracy": percent(mean), "majority_class": percent(share)}
