"""The comparison over cells: rows defences, columns attacks and levels, the paper's figures beside them.

First the headline where attackers of several knowledge levels ran: the worst case over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.columns import COLUMNS
from ismn_cli.reporting.headline import headlines
from ismn_cli.reporting.layout import MISSING, Column, Sheet
from ismn_cli.reporting.lines import Line, lines_of
from ismn_cli.reporting.notes import notes
from ismn_cli.reporting.sections import Section, sections
from ismn_cli.reporting.seeds import over_seeds
from ismn_cli.reporting.table import Report, Row, cell_rows, frame_of, rows_of
from ismn_cli.reporting.worst_rows import worst_rows

CAPTION = "Accuracy in %, higher is better, with its 95 % Wilson interval. clean: without attack."
WORST_CAPTION = " worst case: right without attack and under every attack that was run, image by image."
CORNER = "defence"


def comparison_report(results: Sequence[CellResult], title: str = "Robustness") -> Report:
    """Return the report over ``results``, in the order in which images, defences and attacks appear."""
    worst = worst_rows(results)
    frame = frame_of([*cell_rows(results), *worst], COLUMNS)
    return Report(title, CAPTION + (WORST_CAPTION if worst else ""), frame, notes(rows_of(frame)), layout)


def layout(rows: Sequence[Row]) -> list[Sheet]:
    """Return the headline and a sheet per section; without rows, one with headings only."""
    if not rows:
        return [Sheet("", CORNER, (), (Column(("clean",), ()),), ())]
    together = over_seeds(rows)
    return headlines(together, CORNER) + [_sheet(section) for section in sections(together)]


def _sheet(section: Section) -> Sheet:
    lines = [line for defence in section.clean for line in lines_of(defence, _attacked(section, defence))]
    clean = tuple(line.clean(section.clean[line.defence]) for line in lines)
    groups = tuple(
        tuple(column for eps in levels for column in _level(section, lines, attack, eps))
        for attack, levels in section.attacks().items()
    )
    labels = tuple(line.label() for line in lines)
    return Sheet(section.title, CORNER, labels, (Column(("clean",), clean),), tuple(filter(None, groups)))


def _attacked(section: Section, defence: str) -> list[Row]:
    return [row for (name, _, _), row in section.boxes.items() if name == defence]


def _level(section: Section, lines: Sequence[Line], attack: str, eps: float) -> Iterator[Column]:
    found = [section.boxes.get((line.defence, attack, eps)) for line in lines]
    if all(row is None or row["attacks"] == 1 for row in found):
        return  # the worst case of a single attack is that attack
    yield Column((attack, format_eps(eps)), tuple(map(Line.attacked, lines, found)))
    papers = [None if row is None else row["paper"] for row in found]
    if any(paper is not None for paper in papers):
        cells = tuple(MISSING if paper is None else (f"{paper:.1f}",) for paper in papers)
        yield Column(("paper", format_eps(eps)), cells, tied=True)
