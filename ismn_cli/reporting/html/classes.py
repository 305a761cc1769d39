"""Per class: accuracy of each system without attack and in its hardest cell, and what is taken for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.html.cells import CellFigures
from ismn_cli.reporting.html.detectors import Cells
from ismn_cli.reporting.html.grid import Box, Grid, Head, nothing, toned
from ismn_cli.reporting.html.groups import NORMS, Group, method
from ismn_cli.reporting.sections import KNOWLEDGE
from ismn_cli.reporting.table import Row, one_line

if TYPE_CHECKING:
    from ismn_cli.reporting.html.cells import Array

MOST_GROUPS = 3
MOST_COLUMNS = 100
"""Classes of a table."""
MOST_CONFUSIONS = 4
Names = Mapping[str, Sequence[str]]
"""Names of the classes by data set, where they are known."""


def class_grids(found: Sequence[Group], cells: Cells, names: Names) -> list[Grid]:
    """Return accuracy by class: a row without attack and one in the hardest cell of each system."""
    chosen = [(group, norm) for group in found[:MOST_GROUPS] for norm in group.norms()]
    made = (_by_class(group, norm, cells, names, f"class-{i}") for i, (group, norm) in enumerate(chosen))
    return [grid for grid in made if grid.rows]


def _by_class(group: Group, norm: str, cells: Cells, names: Names, name: str) -> Grid:
    lines = list(_lines(group, norm, cells))
    classes = min(max((len(figures.total) for _, figures in lines), default=0), MOST_COLUMNS)
    told = class_names(names, group.rows[0]["dataset"], classes)
    rows = tuple(tuple(_accuracy(figures, k) for k in range(classes)) for _, figures in lines)
    left_out = f" The first {MOST_COLUMNS} classes." if classes == MOST_COLUMNS else ""
    caption = f"{group.title}, {NORMS.get(norm, norm)}: images of each class answered right, in %.{left_out}"
    heads, labels = (tuple(Head((word,)) for word in told),), tuple(label for label, _ in lines)
    return Grid(name, caption, "system", heads, labels, rows, sortable=True)


def _lines(group: Group, norm: str, cells: Cells) -> Iterator[tuple[tuple[str, str], CellFigures]]:
    labels = list(group.systems.values())
    clean = {labels[group.place(row)]: row for row in group.rows if row["attack"] is None}
    for label, row in group.hardest(norm):
        for words, shown in (("without attack", clean.get(label)), (_attack(row), row)):
            figures = cells.get(shown["cell"]) if shown is not None else None
            if figures is not None and figures.total:
                yield (label, words), figures


def _attack(row: Row) -> str:
    return f"{KNOWLEDGE.get(row['knowledge'], '')} {method(row)} {format_eps(row['eps'])}"


def _accuracy(figures: CellFigures, k: int) -> Box:
    total = figures.total[k] if k < len(figures.total) else 0
    if not total:
        return nothing()
    share = 100 * figures.right[k] / total
    return Box((f"{share:.1f}",), share, toned(share), says=f"{figures.right[k]:,} of {total:,}")


def confusions(found: Sequence[Group], cells: Cells, names: Names) -> tuple[list[Grid], int]:
    """Return the confusion of the systems that keep the most in their hardest cell, and how many are left out."""
    hardest = [(group, *entry) for group in found for norm in group.norms() for entry in group.hardest(norm)]
    hardest.sort(key=lambda entry: -float(entry[2]["accuracy"]))
    grids: list[Grid] = []
    for group, label, row in hardest:
        figures = cells.get(row["cell"])
        if figures is not None and figures.confusion is not None and len(grids) < MOST_CONFUSIONS:
            title = f"{group.title}: {label}, {_attack(row)}"
            grids.append(_confusion(figures.confusion, title, row, names, f"confusion-{len(grids)}"))
    return grids, len(hardest) - len(grids)


def _confusion(counts: Array, title: str, row: Row, names: Names, name: str) -> Grid:
    told = class_names(names, row["dataset"], len(counts))
    ends = [(f"{word}",) for word, column in (("refused", -2), ("failed", -1)) if counts[:, column].any()]
    kept = [*range(len(counts)), *(len(counts) + i for i in (0, 1) if counts[:, len(counts) + i].any())]
    heads = tuple(Head(text) for text in [*((word,) for word in told), *ends])
    rows = tuple(tuple(_count(int(line[k]), int(line.sum())) for k in kept) for line in counts)
    caption = f"{title}: images of each class (row) by the answer (column)."
    return Grid(name, caption, "class", (heads,), tuple((word,) for word in told), rows, dense=True, turned=True)


def _count(found: int, total: int) -> Box:
    share = 100 * found / total if total else None
    return Box((f"{found:,}" if found else "·",), found, toned(share) if found else "", says=f"{found:,} of {total:,}")


def class_names(names: Names, dataset: str, count: int) -> list[str]:
    """Return a name for each class: its number where none is known."""
    known = [one_line(name) for name in names.get(dataset, ())]
    return [known[k] if k < len(known) and known[k] else f"class {k}" for k in range(count)]
