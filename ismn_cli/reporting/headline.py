"""The headline: worst cases by knowledge level side by side, and over all levels, of the same images and norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.layout import Column, Sheet
from ismn_cli.reporting.lines import Line, ceiling_line, lines_of
from ismn_cli.reporting.sections import IMAGES, KNOWLEDGE, defence_labels, title, values
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

SUBJECT = "worst case over all knowledge levels"
Boxes = dict[tuple[str, str, float], Row]
"""Worst cases by defence, knowledge and eps."""


def headlines(rows: Sequence[Row], corner: str) -> list[Sheet]:
    """Return a sheet for each norm and set of images on which attackers of several knowledge levels ran."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["attacks"] is not None:
            groups.setdefault(values(row, (*IMAGES, "norm")), []).append(row)
    compared = [group for group in groups.values() if any(row["knowledge"] == ALL for row in group)]
    return [_sheet(group, rows, corner) for group in compared]


def _sheet(group: Sequence[Row], everything: Sequence[Row], corner: str) -> Sheet:
    names = defence_labels(group)
    boxes = {(name, row["knowledge"], row["eps"]): row for name, row in zip(names, group, strict=True)}
    first = dict(reversed(list(zip(names, group, strict=True))))
    lines = [line for name in dict.fromkeys(names) for line in _lines(name, boxes)]
    lines += ceiling_line(group)
    clean = tuple(line.clean(line.among(first)) for line in lines)
    norm = "" if group[0]["norm"] == "linf" else f", {group[0]['norm']}"
    return Sheet(
        title(group[0], SUBJECT + norm, everything),
        corner,
        tuple(line.label() for line in lines),
        (Column(("clean",), clean),),
        tuple(tuple(_columns(boxes, lines, eps)) for eps in sorted({row["eps"] for row in group})),
    )


def _lines(name: str, boxes: Boxes) -> Iterator[Line]:
    yield from (
        line
        for line in lines_of(name, [row for (defence, _, _), row in boxes.items() if defence == name])
        if line.rate != "accuracy_answered"
    )


def _columns(boxes: Boxes, lines: Sequence[Line], eps: float) -> Iterator[Column]:
    run = {knowledge for _, knowledge, size in boxes if size == eps}
    for knowledge, heading in ((ALL, "worst case"), *KNOWLEDGE.items()):
        if knowledge in run:
            here = {name: row for (name, *where), row in boxes.items() if where == [knowledge, eps]}
            found = [line.among(here) for line in lines]
            yield Column((heading, format_eps(eps)), tuple(map(Line.attacked, lines, found)))
