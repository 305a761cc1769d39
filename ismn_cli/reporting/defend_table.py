"""The side-by-side of `ismn defend`: defences on the same attacked images, by each accounting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.figures import column, of_ceiling, of_numbers, of_rate
from ismn_cli.reporting.layout import Column, Sheet
from ismn_cli.reporting.notes import notes
from ismn_cli.reporting.sections import Section, sections
from ismn_cli.reporting.table import Report, Row, comparison

CAPTION = (
    "Rates in % with their 95 % Wilson interval; ↑ higher, ↓ lower is better. Accountings of a refusal: strict, it is "
    "wrong; rejected = success, it is right; answered only, it is left out; reformed only, it is answered as if not "
    "refused."
)
CORNER = "measure"
CLEAN = (of_rate("clean accuracy ↑", "clean_accuracy"), of_rate("false-positive rate ↓", "false_positive"))
ATTACKED = (
    of_rate("under attack, strict ↑", "accuracy"),
    of_rate("… rejected = success ↑", "accuracy_rejected_success"),
    of_rate("… answered only ↑", "accuracy_answered"),
    of_rate("… reformed only ↑", "accuracy_reformed"),
    of_ceiling("any classifier, at most"),
    of_rate("detection rate ↑", "detection"),
    of_numbers("unknown (attack failed)", "unknown"),
    of_numbers("loops, clean / attacked", "loops_clean", "loops_attacked"),
)
COST = (of_numbers("latency, ms per image ↓", "latency_ms"),)


def defend_report(results: Sequence[CellResult], title: str = "Defences", ceilings: Iterable[Ceiling] = ()) -> Report:
    """Return the report on defences: a table per attack and level, a column per defence."""
    rows = comparison(results, ceilings)
    return Report(title, CAPTION, rows, notes(rows), layout)


def layout(rows: Sequence[Row]) -> list[Sheet]:
    """Return a sheet per attack and level; one of clean figures where nothing was attacked."""
    if not rows:
        return [Sheet("", CORNER, (), (Column(("defence",), ()),), ())]
    return [sheet for section in sections(rows) for sheet in _sheets(section)]


def _sheets(section: Section) -> list[Sheet]:
    if not section.boxes:
        return [_sheet(section.title, section.clean, attacked=False)]
    return [
        _sheet(f"{section.title}, {attack} {format_eps(eps)}", _defences(section, attack, eps), attacked=True)
        for attack, levels in section.attacks().items()
        for eps in levels
    ]


def _defences(section: Section, attack: str, eps: float) -> dict[str, Row]:
    boxes = section.boxes.items()
    return {defence: row for (defence, *where), row in boxes if where == [attack, eps]}


def _sheet(title: str, rows: dict[str, Row], *, attacked: bool) -> Sheet:
    measures = [m for m in CLEAN + (ATTACKED if attacked else ()) + COST if any(map(m.worth, rows.values()))]
    columns = tuple(column((defence,), row, measures) for defence, row in rows.items())
    return Sheet(title, CORNER, tuple((measure.label,) for measure in measures), (), (columns,))
