"""The table of `ismn ceiling`: a row per size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.ceiling_notes import REASON
from ismn_cli.reporting.columns import IDENTITY, Column
from ismn_cli.reporting.layout import Column as SheetColumn
from ismn_cli.reporting.layout import Sheet
from ismn_cli.reporting.sections import images_text
from ismn_cli.reporting.table import Report, Row, Value, one_line, percent, tidy

CAPTION = (
    "The most that a classifier which always answers, whatever it is, can be right on when an attacker may move every "
    "image by up to eps; pixels in [0, 1]."
)
NOTES = (
    f"{REASON} They conflict. A robust accuracy above the ceiling is not robustness against that attacker: the attack "
    "was too weak, refused images counted as right, or eps was on another scale.",
    "Nothing is promised below the ceiling: what classifiers reach is far lower. More images give a lower ceiling, as "
    "a rule.",
)
_NAMES = ("dataset", "split", "samples", "data", "n", "split_size", "norm", "eps", "level")
COLUMNS = (
    *(column for column in IDENTITY if column.name in _NAMES),
    Column("conflicting", "Int64", "images with one of another class within 2 eps"),
    Column("ceiling_images", "Float64", "images that can at most be right, a whole number or a half"),
    Column("ceiling", "Float64", "the same, percent"),
)


def ceiling_report(ceilings: Sequence[Ceiling]) -> Report:
    """Return the report on ``ceilings``, all of one set of images and one norm."""
    return Report("Ceiling", CAPTION, tidy([_row(top) for top in ceilings], COLUMNS), NOTES, layout, COLUMNS)


def layout(rows: Sequence[Row]) -> list[Sheet]:
    """Return one sheet."""
    figures: dict[str, Callable[[Row], str]] = {
        "images": lambda row: f"{row['n']:,}",
        "in conflict": lambda row: f"{row['conflicting']:,}",
        "right at most": lambda row: f"{row['ceiling_images']:,.1f}".removesuffix(".0"),
        "ceiling, %": lambda row: f"{row['ceiling']:.1f}",
    }
    columns = tuple(SheetColumn((head,), tuple((show(row),) for row in rows)) for head, show in figures.items())
    title = f"{rows[0]['dataset']} {rows[0]['split']}, {images_text(rows[0])}, {rows[0]['norm']}" if rows else ""
    return [Sheet(title, "eps", tuple((row["level"],) for row in rows), (), (columns,))]


def _row(ceiling: Ceiling) -> dict[str, Value]:
    return {
        "dataset": one_line(ceiling.samples.dataset),
        "split": one_line(ceiling.samples.split),
        "samples": ceiling.samples.ids,
        "data": ceiling.samples.data,
        "n": ceiling.samples.count,
        "split_size": ceiling.samples.total,
        "norm": ceiling.norm.value,
        "eps": ceiling.eps,
        "level": format_eps(ceiling.eps),
        "conflicting": ceiling.conflicting,
        "ceiling_images": ceiling.possible,
        "ceiling": percent(ceiling.value),
    }
