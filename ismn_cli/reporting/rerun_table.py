"""A result and its repetition as a table: cell by cell what is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import CellResult, Environment
from ismn_cli.core.repeated import Repeated, environment_differences
from ismn_cli.reporting.columns import IDENTITY, Column
from ismn_cli.reporting.layout import MISSING, Lines, Sheet
from ismn_cli.reporting.layout import Column as Set
from ismn_cli.reporting.paired_table import trial_labels
from ismn_cli.reporting.sections import images_text
from ismn_cli.reporting.table import Report, Row, Value, attack_columns, identity, one_line, tidy

CAPTION = (
    "Each cell computed again from its record, with the same weights, images, attacks, seed and batch size. right: "
    "images answered right and not refused."
)
COLUMNS = (
    *(column for column in IDENTITY if column.name != "attacks"),
    Column("sameness", "string", "identical; outcomes differ; figures differ: other columns than the outcomes"),
    Column("outcomes_differ", "Int64", "images whose outcome is another; without attack, whose answer is"),
    Column("ids", "string", "their ids, as a JSON list"),
    Column("right_then", "Int64", "images answered right, as recorded"),
    Column("right_now", "Int64", "images answered right, computed again"),
    Column("figures_differ", "string", "every column that differs, in how many entries, and by how much at most"),
    Column("cell", "string", "key of the cell in the store"),
)
SHOWN = 6


def rerun_report(
    name: str, repeated: Sequence[Repeated], then: Environment | None, now: Environment
) -> Report:
    """Return the comparison of a result called ``name`` with its repetition."""
    rows = tidy([_row(one) for one in repeated], COLUMNS)
    notes = tuple(_notes(rows, environment_differences(then, now)))
    return Report(f"{name}, repeated", CAPTION, rows, notes, _layout, COLUMNS)


def all_identical(repeated: Sequence[Repeated]) -> bool:
    """Return whether nothing that was measured came out otherwise."""
    return all(one.sameness() == "identical" for one in repeated)


def _row(one: Repeated) -> dict[str, Value]:
    moved = one.moved()
    cell = one.recorded.cell
    return {
        **identity(cell),
        **attack_columns(cell),
        "draws": cell.draws,
        "sameness": one.sameness(),
        "outcomes_differ": len(moved),
        "ids": json.dumps(moved),
        "right_then": _right(one.recorded),
        "right_now": _right(one.again),
        "figures_differ": one_line("; ".join(column.told() for column in one.columns())) or None,
        "cell": cell.key(),
    }


def _right(result: CellResult) -> int:
    return sum(answered_right(result))


def _layout(rows: Sequence[Row]) -> list[Sheet]:
    systems: dict[tuple[object, object], list[Row]] = {}
    for row in rows:
        systems.setdefault((row["defence"], row["defence_weights"]), []).append(row)
    return [_sheet(group) for group in systems.values()]


def _sheet(rows: Sequence[Row]) -> Sheet:
    columns = (
        Set(("",), tuple((row["sameness"],) for row in rows)),
        Set(("right", "then"), tuple((f"{row['right_then']:,}",) for row in rows)),
        Set(("right", "now"), tuple((f"{row['right_now']:,}",) for row in rows)),
        Set(("outcomes", "differ"), tuple((f"{row['outcomes_differ']:,}",) for row in rows)),
        Set(("ids",), tuple(map(_ids, rows))),
        Set(("columns that differ", "entries, by up to"), tuple(map(_figures, rows))),
    )
    named = f"{rows[0]['dataset']} {rows[0]['split']}, {images_text(rows[0])}, {rows[0]['defence']}"
    return Sheet(named, "attack", tuple(trial_labels(rows)), (), (columns,))


def _ids(row: Row) -> Lines:
    ids = json.loads(row["ids"])
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return (", ".join(map(str, ids[:SHOWN])) + more,) if ids else MISSING


def _figures(row: Row) -> Lines:
    return tuple(row["figures_differ"].split("; ")) if row["figures_differ"] else MISSING


def _notes(rows: Sequence[Row], environment: Sequence[str]) -> Iterator[str]:
    same = sum(row["sameness"] == "identical" for row in rows)
    yield f"{same} of {len(rows)} cells came out identical, image by image and figure by figure, time aside."
    if environment:
        yield f"Where it was made and here: {'; '.join(map(one_line, environment))}."
    else:
        yield "It was made with the same versions, on the same kind of device."
