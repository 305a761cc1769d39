"""Detectors: the receiver operating characteristic, and risk against coverage as the threshold moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.html.cells import CellFigures
from ismn_cli.reporting.html.figure import Panels, Plot, Series, legend, marker, told
from ismn_cli.reporting.html.groups import NORMS, Group, method
from ismn_cli.reporting.html.svg import LINE, dash, drawn, panel, tone
from ismn_cli.reporting.sections import KNOWLEDGE
from ismn_cli.reporting.table import Row

if TYPE_CHECKING:
    from ismn_cli.reporting.html.cells import Array

MOST_GROUPS = 2
MOST_PANELS = 6
Cells = Mapping[str, CellFigures]
_Attack = tuple[str, str, str]
"""Knowledge, attack, level."""


def detector_curves(found: Sequence[Group], cells: Cells) -> list[Panels]:
    """Return ROC curves: a panel for each attack at the smallest size, a line for each system with a detector."""
    made = [_panels(group, cells, "roc", i) for i, group in enumerate(found[:MOST_GROUPS])]
    return [panels for panels in made if panels.plots]


def risk_curves(found: Sequence[Group], cells: Cells) -> list[Panels]:
    """Return curves of selective risk against coverage of the systems that refuse."""
    made = [_panels(group, cells, "risk", i) for i, group in enumerate(found[:MOST_GROUPS])]
    return [panels for panels in made if panels.plots]


def _panels(group: Group, cells: Cells, kind: str, position: int) -> Panels:
    wanted = list(_wanted(group, cells, kind).items())
    plots = []
    everything: list[Series] = []
    for i, (attack, rows) in enumerate(wanted[:MOST_PANELS]):
        series = [_series(group, row, _curve(cells, row, kind)) for row in rows]
        everything += series
        draw = _roc_plot if kind == "roc" else _risk_plot
        plots.append(draw(_title(attack), series, rows, f"{kind}-{position}-{i}"))
    left_out = len(wanted) - len(plots)
    remark = f"At the smallest size only; {left_out} more attacks are in the table of all cells." if left_out else ""
    return Panels(group.title, tuple(plots), legend(everything), remark)


def _wanted(group: Group, cells: Cells, kind: str) -> dict[_Attack, list[Row]]:
    found: dict[_Attack, list[Row]] = {}
    for norm in group.norms():
        sizes = group.sizes(norm)
        for row in group.cells(norm):
            if row["eps"] == sizes[0] and _curve(cells, row, kind) is not None:
                size = f"{NORMS.get(norm, norm)} {format_eps(row['eps'])}"
                found.setdefault((row["knowledge"], method(row), size), []).append(row)
    return found


def _curve(cells: Cells, row: Row, kind: str) -> Array | None:
    found = cells.get(row["cell"])
    if found is None:
        return None
    return found.roc if kind == "roc" else found.risk


def _title(attack: _Attack) -> str:
    return f"{KNOWLEDGE.get(attack[0], attack[0])}, {attack[1]} {attack[2]}"


def _series(group: Group, row: Row, curve: Array | None) -> Series:
    points = [] if curve is None else (100 * curve).tolist()
    return Series(group.place(row), group.label(row), tuple((x, y) for x, y in points))


def _roc_plot(title: str, series: Sequence[Series], rows: Sequence[Row], name: str) -> Plot:
    drawing, axes = panel(3.6, 3.3)
    axes.plot([0, 100], [0, 100], color=LINE, linewidth=1)
    for line in series:
        x, y = zip(*line.points, strict=True)
        colour, gid = tone(line.place), f"series-{line.place}"
        axes.plot(x, y, linestyle=dash(line.place), linewidth=1.7, color=colour, gid=gid)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="false positives, %", ylabel="attacked inputs flagged, %")
    areas = ", ".join(f"{line.name} {row['auroc']}" for line, row in zip(series, rows, strict=True))
    return Plot(title, drawn(drawing, name, f"ROC of the detectors: {title}", f"Area under the curve: {areas}."))


def _risk_plot(title: str, series: Sequence[Series], rows: Sequence[Row], name: str) -> Plot:
    drawing, axes = panel(3.6, 3.3)
    for line, row in zip(series, rows, strict=True):
        x, y = zip(*line.points, strict=True)
        colour, gid = tone(line.place), f"series-{line.place}"
        axes.plot(x, y, linestyle=dash(line.place), linewidth=1.7, color=colour, gid=gid)
        for at in _operating(row):
            axes.plot(*zip(at, strict=True), marker=marker(line.place), markersize=7, color=colour, gid=gid)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="coverage: answered, %", ylabel="risk: of these wrong, %")
    words = told(series, "coverage in %", "Selective risk in %")
    return Plot(title, drawn(drawing, name, f"Risk against coverage: {title}", words))


def _operating(row: Row) -> Iterator[tuple[float, float]]:
    """Yield where the system's own frozen threshold lies."""
    if row["accuracy_answered"] is not None and row["n"]:
        yield 100 * row["accuracy_answered_total"] / row["n"], 100 - row["accuracy_answered"]
