"""The matrix as a heat map: defences by knowledge, attack and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.html.grid import Box, Grid, Head, nothing, spans, toned
from ismn_cli.reporting.html.groups import Group, figure
from ismn_cli.reporting.sections import KNOWLEDGE
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

MOST_GROUPS = 12


@dataclass(frozen=True)
class _Column:
    level: str
    attack: str
    size: str
    rows: dict[int, Row]
    """By the place of the system."""
    rate: str


def heat_maps(found: Sequence[Group]) -> list[Grid]:
    """Return the heat maps of the first groups that were attacked."""
    return [_map(group, f"heat-{i}") for i, group in enumerate(found[:MOST_GROUPS]) if group.norms()]


def _map(group: Group, name: str) -> Grid:
    columns = [*_overall(group), *_single(group)]
    clean = group.clean()
    heads = (
        (Head(("no attack",)), *spans([column.level for column in columns])),
        (Head(("",)), *spans([f"{column.level}\0{column.attack}" for column in columns])),
        (Head(("clean",)), *(Head((column.size,)) for column in columns)),
    )
    named = tuple(Head((head.text[0].rpartition("\0")[2],), head.span) for head in heads[1])
    rows = tuple(
        (_clean(clean[label]), *(_box(column.rows.get(place), column.rate) for column in columns))
        for place, label in enumerate(group.systems.values())
    )
    labels = tuple((label,) for label in group.systems.values())
    return Grid(name, group.title, "defence", (heads[0], named, heads[2]), labels, rows, dense=True)


def _overall(group: Group) -> Iterator[_Column]:
    for norm in group.norms():
        rows = [row for row in group.rows if row["knowledge"] == ALL and row["norm"] == norm]
        for eps in sorted({row["eps"] for row in rows}):
            here = {group.place(row): row for row in rows if row["eps"] == eps}
            words = "all attacks" if norm == "linf" else f"all attacks, {norm}"
            yield _Column("worst case", words, format_eps(eps), here, "robust_accuracy")


def _single(group: Group) -> Iterator[_Column]:
    for section in group.sections:
        for attack, sizes in section.attacks().items():
            for eps in sizes:
                rows = [row for (_, name, size), row in section.boxes.items() if (name, size) == (attack, eps)]
                if all(row["attacks"] is None for row in rows):
                    here = {group.place(row): row for row in rows}
                    yield _Column(KNOWLEDGE[rows[0]["knowledge"]], attack, format_eps(eps), here, "accuracy")


def _clean(row: Row) -> Box:
    share = figure(row, "clean_accuracy")
    return nothing() if share is None else Box((f"{share:.1f}",), share, toned(share))


def _box(row: Row | None, rate: str) -> Box:
    share = None if row is None else figure(row, rate)
    if row is None or share is None:
        return nothing()
    doubt = f"unreliable: {row['unreliable']}" if row["unreliable"] else ""
    unknown = f"{row['unknown']:,} unknown" if row["unknown"] else ""
    mark = "*" if doubt or unknown else ""
    link = f"#cell-{row['cell'][:12]}" if row["cell"] else ""
    return Box((f"{share:.1f}{mark}",), share, toned(share), link, "; ".join(filter(None, (doubt, unknown))))
