"""The long tables: every cell, what it cost, the paper's figures, and how to make each cell again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ismn_cli.core.records import RunRecord
from ismn_cli.core.runs import Run
from ismn_cli.reporting.commands import cell_command
from ismn_cli.reporting.figures import number, rate
from ismn_cli.reporting.html.cells import CellFigures
from ismn_cli.reporting.html.grid import Box, Grid, Head, nothing, toned, without_empty
from ismn_cli.reporting.html.groups import method
from ismn_cli.reporting.layout import MISSING, Lines
from ismn_cli.reporting.sections import KNOWLEDGE, images_text, short
from ismn_cli.reporting.table import Row
from ismn_cli.reporting.worst_rows import ALL

MOST_ROWS = 1_000
"""Rows of a long table; csv and json have them all."""
MOST_SYSTEMS = 200
FEW = 15
"""Rows that need no filter."""


@dataclass(frozen=True)
class Field:
    """A column of a long table."""

    head: Lines
    show: Callable[[Row], Box]
    numeric: bool = True


def _figure(name: str, row: Row) -> Box:
    return nothing() if row[name] is None else Box(number(row, name), row[name])


def _rate(name: str, row: Row) -> Box:
    return nothing() if row[name] is None else Box(rate(row, name), row[name])


def _toned(name: str, row: Row) -> Box:
    return nothing() if row[name] is None else Box(rate(row, name), row[name], toned(row[name]))


def _word(name: str, row: Row) -> Box:
    return Box((str(row[name]),), str(row[name])) if row[name] is not None else nothing()


def _level(row: Row) -> Box:
    return nothing() if row["level"] is None else Box((row["level"],), row["eps"])


def _knowledge(row: Row) -> Box:
    names = [*KNOWLEDGE, ALL]
    return Box((KNOWLEDGE.get(row["knowledge"], "any"),), float(names.index(row["knowledge"])))


def _attack(row: Row) -> Box:
    if row["attack"] is None:
        return nothing()
    return Box((method(row),), method(row))


def _images(row: Row) -> Box:
    return Box((f"{row['dataset']} {row['split']}", images_text(row)), f"{row['dataset']} {row['samples']}")


def _key(row: Row) -> Box:
    return Box((short(row["cell"]),), row["cell"]) if row["cell"] else nothing()


_NAMED = (
    Field(("knowledge",), _knowledge, numeric=False),
    Field(("attack",), _attack, numeric=False),
    Field(("eps",), _level),
    Field(("norm",), partial(_word, "norm"), numeric=False),
)
CELLS = (
    *_NAMED,
    Field(("clean",), partial(_rate, "clean_accuracy")),
    Field(("accuracy",), partial(_toned, "accuracy")),
    Field(("right before", "and under attack"), partial(_toned, "robust_accuracy")),
    Field(("rejected", "= success"), partial(_rate, "accuracy_rejected_success")),
    Field(("answered", "only"), partial(_rate, "accuracy_answered")),
    Field(("mean of", "draws"), partial(_rate, "accuracy_mean")),
    Field(("any classifier,", "at most"), partial(_figure, "ceiling")),
    Field(("paper",), partial(_figure, "paper")),
    Field(("attack", "success"), partial(_rate, "success")),
    Field(("detected",), partial(_rate, "detection")),
    Field(("false", "positives"), partial(_rate, "false_positive")),
    Field(("AUROC",), partial(_figure, "auroc")),
    Field(("L∞", "largest"), partial(_figure, "linf_max")),
    Field(("L2", "mean"), partial(_figure, "l2_mean")),
    Field(("unknown",), partial(_figure, "unknown")),
    Field(("seed",), partial(_figure, "seed")),
    Field(("doubted by", "the audit"), partial(_word, "unreliable"), numeric=False),
    Field(("images",), _images, numeric=False),
    Field(("cell",), _key, numeric=False),
)
COSTS = (
    *_NAMED,
    Field(("latency,", "ms an image"), partial(_figure, "latency_ms")),
    Field(("attack,", "ms an image"), partial(_figure, "attack_ms")),
    Field(("forward passes", "an image"), partial(_figure, "forwards_per_image")),
    Field(("backward passes", "an image"), partial(_figure, "backwards_per_image")),
    Field(("queries", "an image"), partial(_figure, "queries_per_image")),
    Field(("loops,", "clean"), partial(_figure, "loops_clean")),
    Field(("loops,", "attacked"), partial(_figure, "loops_attacked")),
    Field(("cell",), _key, numeric=False),
)


def cell_grid(rows: Sequence[Row]) -> Grid:
    """Return every row of the table, cells and worst cases."""
    caption = "Rates in % with their 95 % Wilson interval; distances in pixels of [0, 1]."
    grid = _grid("cells", caption, rows, CELLS)
    return replace(grid, anchors=tuple(map(_anchor, rows[: len(grid.rows)])))


def cost_grid(rows: Sequence[Row]) -> Grid:
    """Return what each cell cost."""
    cells = [row for row in rows if row["attacks"] is None]
    return _grid("costs", "Time on the machine of the run; passes and queries of the attack.", cells, COSTS)


def _grid(name: str, caption: str, rows: Sequence[Row], fields: Sequence[Field]) -> Grid:
    shown = rows[:MOST_ROWS]
    if len(rows) > len(shown):
        caption += f" The first {len(shown):,} of {len(rows):,} rows: ismn report --format csv has all."
    heads = (tuple(Head(field.head, numeric=field.numeric) for field in fields),)
    boxes = tuple(tuple(field.show(row) for field in fields) for row in shown)
    labels = tuple((row["defence"],) for row in shown)
    many = len(shown) > FEW
    return without_empty(Grid(name, caption, "system", heads, labels, boxes, sortable=True, filterable=many))


def _anchor(row: Row) -> str:
    return f"cell-{row['cell'][:12]}" if row["cell"] else ""


def paper_grid(rows: Sequence[Row]) -> Grid:
    """Return the paper's figures beside those measured."""
    quoted = [row for row in rows if row["paper"] is not None]
    sources = dict.fromkeys(row["paper_source"] for row in quoted)
    fields = (
        *_NAMED,
        Field(("paper",), partial(_figure, "paper")),
        Field(("measured",), partial(_toned, "accuracy")),
        Field(("any classifier,", "at most"), partial(_figure, "ceiling")),
        Field(("clean",), partial(_rate, "clean_accuracy")),
    )
    return _grid("paper", f"Accuracy in %. {' '.join(f'{source}.' for source in sources if source)}", quoted, fields)


_SYSTEM_COSTS = {
    "parameters": ("parameters",),
    "added_parameters": ("parameters of", "the defence"),
    "latency_ms": ("latency,", "ms an image"),
    "peak_memory_mib": ("peak memory,", "MiB"),
    "training_seconds": ("training,", "s"),
}


def system_costs(runs: Sequence[Run]) -> Grid:
    """Return what each system of each run costs to have and to ask."""
    found = [(run.record.id, name, cost) for run in runs for name, cost in run.record.costs.items()][:MOST_SYSTEMS]
    heads = (*(Head(words) for words in _SYSTEM_COSTS.values()), Head(("run",), numeric=False))
    rows = tuple((*(_cost(getattr(cost, name)) for name in _SYSTEM_COSTS), Box((run,), run)) for run, _, cost in found)
    labels = tuple((name,) for _, name, _ in found)
    return without_empty(Grid("systems", "What each system takes.", "system", (heads,), labels, rows, sortable=True))


def _cost(value: float | None) -> Box:
    if value is None:
        return nothing()
    if isinstance(value, int) or value >= 1000:
        return Box((f"{value:,.0f}",), value)
    return Box((f"{value:.4g}",), value)


@dataclass(frozen=True)
class Command:
    """How to make a cell again."""

    cell: str
    system: str
    attack: str
    text: str


def commands(runs: Sequence[Run], cells: Mapping[str, CellFigures]) -> Iterator[tuple[RunRecord, list[Command]]]:
    """Yield each run with the commands that make its cells again, each cell with the first run that has it."""
    told: set[str] = set()
    for run in runs:
        mine = [key for key in run.record.cells if key in cells and key not in told]
        told.update(mine)
        yield run.record, [_command(run.record, key, cells[key]) for key in mine]


def _command(record: RunRecord, key: str, figures: CellFigures) -> Command:
    cell = figures.cell
    attack = "without attack" if cell.attack is None else f"{KNOWLEDGE[cell.knowledge]}, {cell.attack.label()}"
    return Command(key, cell.defence.name, attack, cell_command(record, cell) or MISSING[0])
