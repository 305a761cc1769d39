"""How far images were moved, and how often they were regenerated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ismn_cli.core.specs import format_eps
from ismn_cli.reporting.html.cells import QUANTILES, CellFigures
from ismn_cli.reporting.html.detectors import Cells
from ismn_cli.reporting.html.figure import Panels, Plot
from ismn_cli.reporting.html.grid import Box, Grid, Head, nothing, toned
from ismn_cli.reporting.html.groups import NORMS, Group, method
from ismn_cli.reporting.html.svg import INK, SOFT, drawn, panel
from ismn_cli.reporting.sections import KNOWLEDGE
from ismn_cli.reporting.table import Row

MOST_GROUPS = 2
MOST_STRIPS = 40
MOST_LETTERS = 44
MOST_LOOPS = 12
"""Columns of the table of regenerations; more stand in the last."""
_NAMES = {"linf": "L∞ distance", "l2": "L2 distance"}
Strip = tuple[str, tuple[float, ...]]
"""A label, and quantiles."""


def distance_plots(found: Sequence[Group], cells: Cells) -> list[Panels]:
    """Return the distances at the smallest size: a strip for each set of examples, which gray-box systems share."""
    chosen = [(group, norm) for group in found[:MOST_GROUPS] for norm in group.norms()]
    made = [_distances(group, norm, cells, f"dist-{i}") for i, (group, norm) in enumerate(chosen)]
    return [panels for panels in made if panels.plots]


def _distances(group: Group, norm: str, cells: Cells, name: str) -> Panels:
    sizes = group.sizes(norm)
    chosen = list(_sets(group, norm, sizes[0], cells).values())
    shown = chosen[:MOST_STRIPS]
    plots = []
    for field, words in _NAMES.items():
        strips = [(label, getattr(figures, field)) for label, figures in shown if getattr(figures, field)]
        if strips:
            plots.append(_strips(strips, words, f"{name}-{field}", sizes[0] if field == norm else None))
    more = len(chosen) - len(shown)
    remark = f"{more} more sets of examples are left out. " if more else ""
    if sizes[1:]:
        remark += f"Larger sizes ({', '.join(map(format_eps, sizes[1:]))}) are in the table of all cells."
    title = f"{group.title}, {NORMS.get(norm, norm)} {format_eps(sizes[0])}"
    return Panels(title, tuple(plots), (), remark, wide=True)


def _sets(group: Group, norm: str, eps: float, cells: Cells) -> dict[str, tuple[str, CellFigures]]:
    """Return the sets of examples, each once, with a label."""
    found: dict[str, tuple[str, CellFigures]] = {}
    for row in group.cells(norm):
        figures = cells.get(row["cell"])
        if figures is None or row["eps"] != eps:
            continue
        key = figures.cell.examples_key()
        shared = row["knowledge"] == "gray" or bool(row["sources"])
        label = f"{KNOWLEDGE.get(row['knowledge'], '')}, {method(row)}{'' if shared else f', {group.label(row)}'}"
        found.setdefault(key, (label, figures))
    return found


def _strips(strips: Sequence[Strip], words: str, name: str, eps: float | None) -> Plot:
    longest = min(max(len(label) for label, _ in strips), MOST_LETTERS)
    drawing, axes = panel(6.2, 0.8 + 0.24 * len(strips), left=0.25 + 0.078 * longest)
    for y, (_, at) in enumerate(strips):
        low, five, quarter, middle, three, ninety, high = at
        axes.plot([low, high], [y, y], color=SOFT, linewidth=0.8)
        axes.plot([five, ninety], [y, y], color=SOFT, linewidth=2.4)
        axes.plot([quarter, three], [y, y], color=INK, linewidth=5)
        axes.plot([middle], [y], marker="|", markersize=10, color=INK)
    axes.set_ylim(len(strips) - 0.4, -0.6)
    axes.set_yticks(range(len(strips)), [label[:MOST_LETTERS] for label, _ in strips])
    axes.set_xlim(left=0)
    if eps is not None:
        axes.axvline(eps, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlabel(f"{words}, pixels in [0, 1]")
    told = " ".join(f"{label}: median {at[QUANTILES.index(50)]:.4g}, most {at[-1]:.4g}." for label, at in strips)
    return Plot(words, drawn(drawing, name, f"Distribution of the {words}", told))


def loop_grids(found: Sequence[Group], cells: Cells) -> list[Grid]:
    """Return how often images were regenerated, by the systems that do it at all."""
    made = (_loops(group, cells, f"loops-{i}") for i, group in enumerate(found[:MOST_GROUPS]))
    return [grid for grid in made if grid.rows]


def _loops(group: Group, cells: Cells, name: str) -> Grid:
    lines = list(_loop_lines(group, cells))
    most = min(max((len(counts) for _, counts in lines), default=0), MOST_LOOPS)
    heads = tuple(Head((f"{i}" if i < MOST_LOOPS - 1 or most < MOST_LOOPS else f"{i}+",)) for i in range(most))
    rows = tuple(tuple(_share_box(counts, i, most) for i in range(most)) for _, counts in lines)
    caption = f"{group.title}: share of images, in %, by the number of regenerations; 0 is the clean route."
    return Grid(name, caption, "system and attack", (heads,), tuple((label,) for label, _ in lines), rows)


def _loop_lines(group: Group, cells: Cells) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the counts of each system that regenerates: without attack, then under those of the smallest size."""
    for norm in group.norms():
        sizes = group.sizes(norm)
        told: set[str] = set()
        looping = {group.label(row) for row in group.cells(norm) if _varies(cells.get(row["cell"]))}
        for row in sorted((row for row in group.cells(norm) if row["eps"] == sizes[0]), key=group.place):
            figures, label = cells.get(row["cell"]), group.label(row)
            if figures is None or label not in looping:
                continue
            if label not in told:
                yield f"{label}, without attack", figures.loops_clean
            told.add(label)
            yield f"{label}, {_attack(row)}", figures.loops


def _varies(figures: CellFigures | None) -> bool:
    """Whether some images are regenerated more often than others: else the system does the same to all."""
    if figures is None:
        return False
    counts = (figures.loops, figures.loops_clean)
    return len({times for column in counts for times, images in enumerate(column) if images}) > 1


def _attack(row: Row) -> str:
    return f"{KNOWLEDGE.get(row['knowledge'], '')} {row['attack']} {row['level']}"


def _share_box(counts: Sequence[int], position: int, most: int) -> Box:
    last = position == most - 1
    found = sum(counts[position:]) if last else (counts[position] if position < len(counts) else 0)
    if not sum(counts):
        return nothing()
    share = 100 * found / sum(counts)
    return Box((f"{share:.1f}",), share, toned(share), says=f"{found:,} images") if found else Box(("·",), 0.0)
