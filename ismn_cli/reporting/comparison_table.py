"""The comparison over cells: rows defences, columns attacks and levels, the paper's figures beside them.

First the headline where attackers of several knowledge levels ran: the worst case over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Cell, format_eps
from ismn_cli.reporting.balance import balance_columns, balanced
from ismn_cli.reporting.columns import COLUMNS
from ismn_cli.reporting.digest import digests
from ismn_cli.reporting.headline import headlines
from ismn_cli.reporting.layout import Column, Sheet
from ismn_cli.reporting.lines import Line, ceiling_line, lines_of
from ismn_cli.reporting.notes import notes, standing_in
from ismn_cli.reporting.sections import Section, sections
from ismn_cli.reporting.seeds import over_seeds
from ismn_cli.reporting.table import Report, Row, tidy, with_ceilings, with_doubts
from ismn_cli.reporting.worst_rows import worst_rows

CAPTION = "Accuracy in %, higher is better, with its 95 % Wilson interval. clean: without attack."
CEILING_CAPTION = (
    " any classifier: the most that one which always answers can reach under every perturbation of that size."
)
WORST_CAPTION = " worst case: right without attack and under every attack that was run, image by image."
CORNER = "defence"
Ceilings = Iterable[Ceiling] | Callable[[Sequence[Cell]], Iterable[Ceiling]]
"""What is known, or who finds it for the cells once all have passed."""


def comparison_report(
    results: Iterable[CellResult],
    title: str = "Robustness",
    ceilings: Ceilings = (),
    unreliable: Mapping[str, Sequence[str]] = MappingProxyType({}),
    stand_in_for: str | None = None,
) -> Report:
    """Return the report over ``results``, in the order in which images, defences and attacks appear.

    Each result is looked at once and let go, see `digests`: whoever wants more of them wraps the iterable.
    Where ``ceilings`` has that of their images, a line under the defences tells what is possible at all.
    ``unreliable``: keys of cells whose figures the audit does not believe, and its failed checks.
    ``stand_in_for``: the data set whose published figures are set beside these images'.
    """
    passed = digests(results, stand_in_for)
    worst = worst_rows([digest.met for digest in passed if digest.met])
    tops = ceilings([digest.cell for digest in passed]) if callable(ceilings) else ceilings
    found = with_doubts(with_ceilings([*(digest.row for digest in passed), *worst], tops), unreliable)
    columns = COLUMNS + balance_columns(found)
    rows = tidy(found, columns)
    caption = CAPTION + (WORST_CAPTION if worst else "") + (CEILING_CAPTION if ceiling_line(rows) else "")
    return Report(title, caption, rows, (*standing_in(rows, stand_in_for), *notes(rows)), layout, columns)


def layout(rows: Sequence[Row]) -> list[Sheet]:
    """Return the headline and a sheet per section; without rows, one with headings only."""
    if not rows:
        return [Sheet("", CORNER, (), (Column(("clean",), ()),), ())]
    together = over_seeds(rows)
    return headlines(together, CORNER) + [_sheet(section) for section in sections(together)]


def _sheet(section: Section) -> Sheet:
    lines = [line for defence in section.clean for line in lines_of(defence, _attacked(section, defence))]
    lines += ceiling_line(section.boxes.values())
    clean = [Column(("clean",), tuple(line.clean(line.among(section.clean)) for line in lines))]
    if balance_columns(section.clean.values()):
        clean.append(Column(("balanced",), tuple(map(balanced, lines, (line.among(section.clean) for line in lines)))))
    groups = tuple(
        tuple(column for eps in levels for column in _level(section, lines, attack, eps))
        for attack, levels in section.attacks().items()
    )
    labels = tuple(line.label() for line in lines)
    return Sheet(section.title, CORNER, labels, tuple(clean), tuple(filter(None, groups)))


def _attacked(section: Section, defence: str) -> list[Row]:
    return [row for (name, _, _), row in section.boxes.items() if name == defence]


def _level(section: Section, lines: Sequence[Line], attack: str, eps: float) -> Iterator[Column]:
    here = {name: row for (name, *where), row in section.boxes.items() if where == [attack, eps]}
    found = [line.among(here) for line in lines]
    if all(row is None or row["attacks"] == 1 for row in found):
        return  # the worst case of a single attack is that attack
    yield Column((attack, format_eps(eps)), tuple(map(Line.attacked, lines, found)))
    if any(row is not None and row["paper"] is not None for row in found):
        yield Column(("paper", format_eps(eps)), tuple(map(Line.paper, lines, found)), tied=True)
