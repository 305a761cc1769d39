"""Security curves: accuracy against the size of the perturbation, and against the steps of the attack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.html.figure import Panels, Plot, Series, legend, marker, told
from ismn_cli.reporting.html.groups import NORMS, Group, figure
from ismn_cli.reporting.html.svg import INK, SOFT, dash, drawn, panel, tone
from ismn_cli.reporting.sections import KNOWLEDGE, values
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS = 3
MOST_PANELS = 9
"""Panels of one group and norm."""
MOST_SYSTEMS = 24
"""Lines in a panel."""
SPREAD = 8
"""The ratio of sizes from which small ones would be squeezed together on an even axis."""
STEPS = ("steps", "n_queries", "nb_iter", "num_iter_set", "max_iterations")
"""What attacks call the length of their search."""
_CEILING = "any classifier, at most"


@dataclass(frozen=True)
class _Panel:
    title: str
    rows: tuple[Row, ...]
    rate: str


def size_curves(found: Sequence[Group]) -> list[Panels]:
    """Return the curves against eps of the first groups, the worst case before single attacks."""
    chosen = [(group, norm) for group in found[:MOST_GROUPS] for norm in group.norms()]
    return [_sizes(group, norm, f"eps-{i}") for i, (group, norm) in enumerate(chosen)]


def _sizes(group: Group, norm: str, name: str) -> Panels:
    wanted = list(_wanted(group, norm))
    shown = wanted[:MOST_PANELS]
    lines = [list(_against_eps(group, panel)) for panel in shown]
    pairs = enumerate(zip(shown, lines, strict=True))
    plots = [_size_plot(panel, series, group, norm, f"{name}-{i}") for i, (panel, series) in pairs]
    everything = [series for panel in lines for series in panel]
    known = any(row["ceiling"] is not None for row in group.rows)
    return Panels(
        f"{group.title}, {NORMS.get(norm, norm)}",
        tuple(plots),
        legend(everything, *([_CEILING] if known else [])),
        _left_out(len(wanted) - len(shown), len(group.systems)),
    )


def _left_out(panels: int, systems: int) -> str:
    parts = [f"{panels} more attacks are in the table of all cells."] if panels else []
    if systems > MOST_SYSTEMS:
        parts.append(f"The first {MOST_SYSTEMS} of {systems} systems are drawn.")
    return " ".join(parts)


def _wanted(group: Group, norm: str) -> Iterator[_Panel]:
    rows = [row for row in group.rows if row["attack"] is not None and row["norm"] == norm]
    overall = tuple(row for row in rows if row["knowledge"] == ALL)
    if overall:
        yield _Panel("worst case over all knowledge levels", overall, "robust_accuracy")
    for section in group.sections:
        for attack in section.attacks():
            boxes = tuple(row for (_, name, _), row in section.boxes.items() if name == attack and row["norm"] == norm)
            alone = all(row["attacks"] == 1 for row in boxes)
            if boxes and not alone:
                rate = "accuracy" if boxes[0]["attacks"] is None else "robust_accuracy"
                yield _Panel(f"{KNOWLEDGE.get(boxes[0]['knowledge'], '')}, {attack}", boxes, rate)


def _against_eps(group: Group, panel: _Panel) -> Iterator[Series]:
    clean = group.clean()
    for label, rows in _by_system(group, panel.rows):
        place = group.place(rows[0])
        known = sorted((row["eps"], row) for row in rows if figure(row, panel.rate) is not None)
        start = figure(clean[label], "clean_accuracy")
        points = [(0.0, start)] if start is not None and known and known[0][0] > 0 else []
        points += [(eps, figure(row, panel.rate) or 0.0) for eps, row in known]
        ends = tuple((eps, *_interval(row, panel.rate)) for eps, row in known)
        yield Series(place, label, tuple(points), ends)


def _interval(row: Row, rate: str) -> tuple[float, float]:
    if "members" in row:
        found = [float(member[rate]) for member in row["members"] if member[rate] is not None]
        return min(found), max(found)
    return float(row[f"{rate}_low"]), float(row[f"{rate}_high"])


def _by_system(group: Group, rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(group.place(row), []).append(row)
    labels = list(group.systems.values())
    yield from ((labels[place], found[place]) for place in sorted(found) if place < MOST_SYSTEMS)


def _size_plot(panel_: _Panel, series: Sequence[Series], group: Group, norm: str, name: str) -> Plot:
    import numpy as np

    drawing, axes = panel()
    sizes = group.sizes(norm)
    _lines(axes, series)
    _ceiling(axes, panel_.rows)
    rooted = sizes[0] > 0 and sizes[-1] / sizes[0] > SPREAD
    if rooted:
        axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set_xlim(0, None)
    ticks = [0.0, *_apart(sizes, np.sqrt if rooted else float)]
    axes.set_xticks(ticks, ["0" if eps == 0 else format_eps(eps) for eps in ticks])
    axes.set_xlabel(f"size of the perturbation, {NORMS.get(norm, norm)}{' (square-root axis)' if rooted else ''}")
    _percent(axes)
    words = told(series, "eps", "Accuracy in %")
    return Plot(panel_.title, drawn(drawing, name, f"Accuracy against eps: {panel_.title}", words))


def _apart(sizes: Sequence[float], scale: Callable[[float], float]) -> list[float]:
    """Return the sizes above 0 whose labels do not run into one another on the ``scale``, the largest among them."""
    kept: list[float] = []
    for eps in reversed(sizes):
        room = 0.09 * scale(sizes[-1])
        if eps > 0 and scale(eps) > room and (not kept or scale(kept[-1]) - scale(eps) > room):
            kept.append(eps)
    return kept[::-1]


def _lines(axes: Axes, series: Sequence[Series]) -> None:
    for line in series:
        x, y = zip(*line.points, strict=True) if line.points else ((), ())
        (curve,) = axes.plot(x, y, color=tone(line.place), linestyle=dash(line.place), marker=marker(line.place))
        curve.set(markersize=4.5, linewidth=1.6, clip_on=False, zorder=3, gid=f"series-{line.place}")
        for at, low, high in line.intervals:
            axes.plot([at, at], [low, high], linewidth=1.1, alpha=0.55, color=tone(line.place), gid=curve.get_gid())


def _ceiling(axes: Axes, rows: Iterable[Row]) -> None:
    known = sorted({(row["eps"], row["ceiling"]) for row in rows if row["ceiling"] is not None})
    if known:
        x, y = zip(*[(0.0, 100.0), *known], strict=True)
        axes.plot(x, y, color=INK, linewidth=1.1, linestyle=(0, (1, 2)), drawstyle="steps-post")


def _percent(axes: Axes) -> None:
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy, %")


def step_curves(found: Sequence[Group]) -> list[Panels]:
    """Return the curves against the length of the search, where cells differ in nothing else."""
    made = (_steps(group, f"steps-{i}") for i, group in enumerate(found[:MOST_GROUPS]))
    return [panels for panels in made if panels.plots]


def _steps(group: Group, name: str) -> Panels:
    wanted = list(_lengths(group).items())
    plots, everything = [], []
    for i, ((word, title), rows) in enumerate(wanted[:MOST_PANELS]):
        series = list(_against_steps(group, rows, word))
        everything += series
        plots.append(_step_plot(title, word, series, f"{name}-{i}"))
    left_out = _left_out(len(wanted) - len(plots), len(group.systems))
    return Panels(group.title, tuple(plots), legend(everything), left_out)


def _lengths(group: Group) -> dict[tuple[str, str], list[Row]]:
    """Return the cells of each attack whose runs differ in the length of the search, by that and a title."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in (row for norm in group.norms() for row in group.cells(norm)):
        params = json.loads(row["params"] or "{}")
        word = next((word for word in STEPS if word in params), None)
        if word and isinstance(params[word], int | float):
            rest = json.dumps({key: value for key, value in params.items() if key not in (word, "alpha", "lr")})
            place = values(row, ("knowledge", "attack", "norm", "level", "sources", "eot"))
            found.setdefault((word, *map(str, place), rest), []).append(row)
    return {
        (key[0], f"{KNOWLEDGE.get(key[1], key[1])}, {key[2]} {key[4]}"): rows
        for key, rows in found.items()
        if any(len({point for point, _ in series.points}) > 1 for series in _against_steps(group, rows, key[0]))
    }


def _against_steps(group: Group, rows: Iterable[Row], word: str) -> Iterator[Series]:
    for label, same in _by_system(group, rows):
        points = sorted((float(json.loads(row["params"])[word]), figure(row, "accuracy") or 0.0) for row in same)
        yield Series(group.place(same[0]), label, tuple(points))


def _step_plot(title: str, word: str, series: Sequence[Series], name: str) -> Plot:
    drawing, axes = panel()
    _lines(axes, series)
    points = sorted({x for line in series for x, _ in line.points})
    if points[0] > 0 and points[-1] / points[0] > 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(points, [f"{point:g}" for point in points])
    axes.set_xlabel(f"{word} of the attack", color=SOFT)
    _percent(axes)
    return Plot(title, drawn(drawing, name, f"Accuracy against {word}: {title}", told(series, word, "Accuracy in %")))
