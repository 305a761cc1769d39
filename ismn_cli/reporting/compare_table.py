"""Two runs on the same images: the differences of every trial that both have, and which images flipped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import CellResult, RunRecord
from ismn_cli.core.specs import Cell
from ismn_cli.reporting.columns import Column
from ismn_cli.reporting.layout import MISSING, Lines, Sheet
from ismn_cli.reporting.layout import Column as Set
from ismn_cli.reporting.paired_table import COLUMNS as PAIRED
from ismn_cli.reporting.paired_table import method_notes, paired_rows, paired_sheet, trial_labels
from ismn_cli.reporting.run_differences import not_comparable
from ismn_cli.reporting.run_pairs import Compared, RunPair, run_pairs
from ismn_cli.reporting.sections import IMAGES, images_text, short, title, values
from ismn_cli.reporting.table import Report, Row, Value, one_line, tidy

CAPTION = (
    "A is {first}, B is {second}. Images answered right and not refused, in %, with the 95 % Wilson interval; worst "
    "case: right without attack and under every attack that both ran. difference: A less B, in points."
)
_FLIPS = (
    Column("first_run", "string", "the run that the first side is of"),
    Column("second_run", "string", "the run that the second side is of"),
    Column("only_first_ids", "string", "ids of the images that only the first answers right, as a JSON list"),
    Column("only_second_ids", "string", "ids of the images that only the second answers right, as a JSON list"),
    Column(
        "transitions",
        "string",
        'images by how their outcome moved from the first run to the second, as JSON, such as {"survived > broken": 3}',
    ),
    Column("settings_differ", "string", "what differs in how the attack was run, as it is told; empty: nothing"),
    Column("same_cell", "boolean", "whether both runs hold the very same stored result: then nothing can differ"),
)
COLUMNS = (*PAIRED, *_FLIPS)
SHOWN = 8
"""Ids that the text shows; csv and json have all."""


def compare_report(
    records: tuple[RunRecord, RunRecord], first: Sequence[CellResult], second: Sequence[CellResult]
) -> Report:
    """Return the paired comparison of two runs.

    Raises UsageError naming every difference where the images, the knowledge or the threat models differ so that
    nothing can be paired; and where a run has no cells.
    """
    for record, results in zip(records, (first, second), strict=True):
        if not results:
            raise UsageError(f"Run {record.id} has no stored cells to compare.", _empty_hint(record))
    found = run_pairs(first, second)
    both_attacked = all(any(r.cell.attack is not None for r in run) for run in (first, second))
    if not found.pairs or (both_attacked and not found.attacked):
        raise not_comparable(records, first, second)
    rows = paired_rows([one.pair for one in found.pairs])
    names = {"first_run": records[0].id, "second_run": records[1].id}
    table = tidy([row | names | _flips(one) for row, one in zip(rows, found.pairs, strict=True)], COLUMNS)
    notes = tuple(_notes(table, found))
    caption = CAPTION.format(first=records[0].id, second=records[1].id)
    return Report(f"{records[0].id} against {records[1].id}", caption, table, notes, _layout, COLUMNS)


def _empty_hint(record: RunRecord) -> str:
    if record.kind == "train":
        return "It is a training. Give two runs of attacks: ismn list runs"
    return "It is not finished: repeat its command, then compare. See: ismn list runs"


def _flips(found: RunPair) -> dict[str, Value]:
    return {
        "only_first_ids": json.dumps(found.only_first()),
        "only_second_ids": json.dumps(found.only_second()),
        "transitions": json.dumps(found.transitions()),
        "settings_differ": one_line("; ".join(found.settings)) or None,
        "same_cell": found.same_cell,
    }


def _layout(rows: Sequence[Row]) -> list[Sheet]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        fields = (*IMAGES, "first", "first_weights", "second", "second_weights", "second_classifier_weights")
        groups.setdefault(values(row, fields), []).append(row)
    sheets = []
    for group in groups.values():
        names = list(dict.fromkeys((group[0]["first"], group[0]["second"])))
        heads = (("A", group[0]["first"]), ("B", group[0]["second"]))
        sheets.append(paired_sheet(group, title(group[0], " against ".join(names), rows), heads))
        flipped = [row for row in group if row["only_first"] or row["only_second"] or json.loads(row["transitions"])]
        if flipped:
            sheets.append(_flip_sheet(flipped, title(group[0], f"{' against '.join(names)}: what flipped", rows)))
    return sheets


def _flip_sheet(rows: Sequence[Row], named: str) -> Sheet:
    columns = (
        Set(("A > B",), tuple(map(_moved, rows))),
        Set(("right in A only:", "ids"), tuple(_ids(row, "only_first") for row in rows)),
        Set(("right in B only:", "ids"), tuple(_ids(row, "only_second") for row in rows)),
    )
    return Sheet(named, "attack", tuple(trial_labels(rows)), (), (columns,))


def _moved(row: Row) -> Lines:
    moved = json.loads(row["transitions"])
    return tuple(f"{count:,} {way}" for way, count in moved.items()) or MISSING


def _ids(row: Row, name: str) -> Lines:
    ids = json.loads(row[f"{name}_ids"])
    if not ids:
        return MISSING
    half = SHOWN // 2
    parts = [", ".join(map(str, ids[i : min(i + half, SHOWN)])) for i in range(0, min(len(ids), SHOWN), half)]
    return (*parts, f"and {len(ids) - SHOWN:,} more") if len(ids) > SHOWN else tuple(parts)


def _notes(rows: Sequence[Row], found: Compared) -> Iterator[str]:
    for images in dict.fromkeys(f"{images_text(row)} of {row['dataset']} {row['split']}" for row in rows):
        yield f"Both runs on the same images: {images}."
    yield from _sameness(rows)
    yield from _alone(found)
    yield from method_notes(rows)
    yield f"Weights (sha256): {'; '.join(dict.fromkeys(map(_weights, rows)))}."


def _weights(row: Row) -> str:
    mine, theirs = (f"{row[side]} {short(row[f'{side}_weights'])}" for side in ("first", "second"))
    same = row["first_weights"] == row["second_weights"] and row["first"] == row["second"]
    return f"{mine} in both" if same else f"A {mine}, B {theirs}"


def _sameness(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what makes a row say less than it seems to: the same stored result, other settings, another base."""
    same = sum(row["same_cell"] for row in rows)
    if same:
        yield f"{same} of {len(rows)} rows are the very same stored results in both runs: nothing could differ there."
    told: dict[str, int] = {}
    for row in rows:
        if row["settings_differ"]:
            told[row["settings_differ"]] = told.get(row["settings_differ"], 0) + 1
    for settings, count in told.items():
        yield f"The runs were not made alike ({count} of {len(rows)} rows): {settings} (A and B)."
    if any(row["classifier_weights"] != row["second_classifier_weights"] for row in rows):
        yield "The two stand on different base classifiers: gray-box images are made on each one's own."


def _alone(found: Compared) -> Iterator[str]:
    for side, results in zip("AB", found.alone, strict=True):
        names = [_name(result.cell) for result in results]
        if names:
            more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
            yield f"Only {side} has, and not compared: {', '.join(names[:SHOWN])}{more}."


def _name(cell: Cell) -> str:
    return one_line(f"{cell.defence.name} {cell.knowledge} {cell.attack.label() if cell.attack else ''}")
