"""The comparison over cells: rows defences, columns attacks and levels, the paper's figures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.figures import rate, refuses
from ismn_cli.reporting.layout import MISSING, Column, Lines, Sheet
from ismn_cli.reporting.notes import notes
from ismn_cli.reporting.sections import Section, sections
from ismn_cli.reporting.table import Report, Row, comparison, rows_of

CAPTION = "Accuracy in %, higher is better, with its 95 % Wilson interval. clean: without attack."
CORNER = "defence"
Line = tuple[str, str]
"""A row of the table: a defence's label, and the rate that accounts for its refusals."""


def comparison_report(results: Sequence[CellResult], title: str = "Robustness") -> Report:
    """Return the report over ``results``, in the order in which images, defences and attacks appear."""
    frame = comparison(results)
    return Report(title, CAPTION, frame, notes(rows_of(frame)), layout)


def layout(rows: Sequence[Row]) -> list[Sheet]:
    """Return a sheet per section; without rows, one with headings only."""
    if not rows:
        return [Sheet("", CORNER, (), (Column(("clean",), ()),), ())]
    return [_sheet(section) for section in sections(rows)]


def _sheet(section: Section) -> Sheet:
    lines = list(_lines(section))
    clean = tuple(rate(section.clean[defence], "clean_accuracy") for defence, _ in lines)
    groups = tuple(
        tuple(column for eps in levels for column in _level(section, lines, attack, eps))
        for attack, levels in section.attacks().items()
    )
    labels = tuple(_label(line, lines) for line in lines)
    return Sheet(section.title, CORNER, labels, (Column(("clean",), clean),), groups)


def _lines(section: Section) -> Iterator[Line]:
    for defence in section.clean:
        yield defence, "accuracy"
        if any(refuses(row) for (name, _, _), row in section.boxes.items() if name == defence):
            yield defence, "accuracy_rejected_success"


def _label(line: Line, lines: Sequence[Line]) -> Lines:
    defence, accounting = line
    if (defence, "accuracy_rejected_success") not in lines:
        return (defence,)
    return (defence, "(strict)" if accounting == "accuracy" else "(rejected = success)")


def _level(section: Section, lines: Sequence[Line], attack: str, eps: float) -> Iterator[Column]:
    found = [(section.boxes.get((defence, attack, eps)), accounting) for defence, accounting in lines]
    yield Column((attack, format_eps(eps)), tuple(_box(row, accounting) for row, accounting in found))
    papers = [None if row is None else row["paper"] for row, _ in found]
    if any(paper is not None for paper in papers):
        cells = tuple(MISSING if paper is None else (f"{paper:.1f}",) for paper in papers)
        yield Column(("paper", format_eps(eps)), cells, tied=True)


def _box(row: Row | None, accounting: str) -> Lines:
    if row is None:
        return MISSING
    unknown = (f"{row['unknown']} unknown",) if row["unknown"] else ()
    return rate(row, accounting) + unknown
