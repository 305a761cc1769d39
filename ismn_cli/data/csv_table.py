"""Any user's images: a table of paths and labels, as comma-separated values."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ismn_cli.core.settings import nearest
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.pictures import SUFFIXES, is_web_page
from ismn_cli.data.places import own_place
from ismn_cli.data.problems import refusal
from ismn_cli.data.sources import SPLITS, Part, Source, image_set, with_all_splits

COLUMNS = ("path", "label", "split")
LAYOUT = (
    "Give --data-dir FILE.csv, or a folder with one: a line with the columns path,label or path,label,split, then a "
    "line for each image. Paths are taken from the folder of the file; split is train, validation or test."
)
CHECK = "Put those lines or files right. `ismn data check csv --data-dir FILE.csv --full` decodes every image."


@dataclass(frozen=True)
class Row:
    """A line of the table that can be made sense of."""

    number: int
    """Position among the lines, less the head and empty ones: the image's id."""
    path: Path
    label: str
    split: str


def load(split: str, data_dir: Path | None = None, image_size: int | None = None) -> ImageSet:
    """Return ``train``, ``validation`` or ``test`` of the table in ``data_dir``, named "csv/FILE@SIZE".

    Images, sizes and channels are those of `ismn_cli.data.folder`. ids are the numbers of the rows, from 0. See
    `source` for the labels and splits.
    Raises UsageError: no such file, and all that is wrong with it and its images, in one list.
    """
    return image_set(source(data_dir, image_size), split)


def source(data_dir: Path | None = None, image_size: int | None = None) -> Source:
    """Return what the table offers.

    Where all labels are whole numbers they number the classes from 0; else the classes are the labels in order.
    Without the column split, or where it has not all three, the rest is drawn by hash as for a folder.
    """
    table = _table_in(own_place("csv", data_dir, LAYOUT).absolute())
    rows, problems, notes = _read(table)
    classes, labels, more = _classes([row.label for row in rows])
    parts = _parts(rows, labels)
    if set(parts) == {"train", "validation"}:
        parts = {"train": parts["train"], "test": parts["validation"]}
        notes = [*notes, f"{table} has no test set: its images to validate stand for it."]
    wrong = [*problems, *more, *_class_problems(parts, classes)]
    found = Source(
        name=f"csv/{table.resolve().stem.replace('@', '-')}",
        root=table.parent,
        classes=classes,
        parts=parts,
        size=image_size,
        problems=tuple(f"{table.name}: {line}" for line in wrong),
        notes=tuple(notes),
        hint=CHECK if rows else LAYOUT,
    )
    return with_all_splits(found) if classes else found


def _table_in(place: Path) -> Path:
    if not place.is_dir():
        return place
    tables = sorted(path for path in place.iterdir() if path.suffix.lower() == ".csv" and path.is_file())
    if len(tables) != 1:
        raise refusal(str(place), [f"has {len(tables)} .csv files; which one is not said"], LAYOUT)
    return tables[0]


def _read(table: Path) -> tuple[list[Row], list[str], list[str]]:
    """Return the rows, what is wrong with others, and what is to be said."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            head = [name.strip().lower() for name in next(lines, [])]
            wrong = _head_problems(head, table)
            if wrong:
                return [], wrong, []
            idle = [name for name in head if name not in COLUMNS]
            notes = [f"{table}: columns that are not read: {', '.join(idle)}."] if idle else []
            rows, problems = _rows(lines, head, table.parent)
    except (UnicodeDecodeError, csv.Error) as error:
        raise refusal(str(table), [f"is no comma-separated text in UTF-8 ({error})"], LAYOUT) from None
    return rows, problems if rows or problems else ["there are no lines but the head"], notes


def _head_problems(head: Sequence[str], table: Path) -> list[str]:
    if is_web_page(table):
        return ["is a web page, not a table"]
    twice = [name for name in COLUMNS if head.count(name) > 1]
    lacking = [name for name in COLUMNS[:2] if name not in head]
    told = ", ".join(name or "''" for name in head) or "nothing"
    found = [f"there is no column '{name}', but {told}; {nearest(name, head or ['path'])}" for name in lacking]
    return found + [f"the column '{name}' is there twice" for name in twice]


def _rows(lines: Iterator[list[str]], head: Sequence[str], folder: Path) -> tuple[list[Row], list[str]]:
    rows, problems, seen = list[Row](), list[str](), dict[str, int]()
    number = -1
    for cells in lines:
        line = getattr(lines, "line_num", 0)
        if not any(cell.strip() for cell in cells):
            continue
        number += 1
        row = _row(number, cells, head, folder)
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
            continue
        first = seen.setdefault(os.path.normpath(row.path), line)
        if first != line:
            problems.append(f"line {line}: {_quoted(row.path, folder)} is in line {first} already")
        else:
            rows.append(row)
    return rows, problems


def _row(number: int, cells: Sequence[str], head: Sequence[str], folder: Path) -> Row | str:
    """Return what a line says, or what is wrong with it."""
    if len(cells) != len(head):
        return f"{len(cells)} values for {len(head)} columns"
    given = {name: cell.strip() for name, cell in zip(head, cells, strict=True)}
    empty = [name for name in COLUMNS if name in given and not given[name]]
    if empty:
        return f"no {empty[0]}"
    if "\0" in given["path"]:
        return "a path cannot have a NUL in it"
    path = folder / given["path"]
    if path.suffix.lower() not in SUFFIXES:
        return f"{_quoted(path, folder)} is not of a kind that is read ({', '.join(SUFFIXES)})"
    wanted = given.get("split", "train").lower()
    split = next((name for name, words in SPLITS.items() if wanted in words), None)
    return Row(number, path, given["label"], split) if split else f"split '{wanted}'; known are {', '.join(SPLITS)}"


def _quoted(path: Path, folder: Path) -> str:
    return repr(str(path.relative_to(folder) if path.is_relative_to(folder) else path))


def _classes(labels: Sequence[str]) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the names of the classes, each label's number, and what is wrong with them."""
    names = sorted(set(labels))
    if not names:
        return (), [], []
    if not all(name.isascii() and name.removeprefix("-").isdigit() for name in names):
        at = {name: i for i, name in enumerate(names)}
        return tuple(names), [at[label] for label in labels], []
    numbers = [int(label) for label in labels]
    low, high = min(numbers), max(numbers)
    if low < 0 or high >= len(labels):
        wrong = f"labels are out of range: {low} to {high} in {len(labels):,} lines; classes are numbered from 0"
        return (), [0] * len(labels), [wrong]
    return tuple(map(str, range(high + 1))), numbers, []


def _parts(rows: Sequence[Row], labels: Sequence[int]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for split in SPLITS:
        chosen = [(row.path, label, row.number) for row, label in zip(rows, labels, strict=True) if row.split == split]
        if chosen:
            paths, numbers, ids = zip(*chosen, strict=True)
            found[split] = Part(paths, numbers, ids)
    return found


def _class_problems(parts: Mapping[str, Part], classes: Sequence[str]) -> list[str]:
    if not classes:
        return []
    if len(classes) < 2:
        return [f"there is only the class '{classes[0]}'"]
    there = {split: set(part.labels) for split, part in parts.items()}
    one = [(split, classes[min(seen)]) for split, seen in there.items() if len(seen) == 1]
    gone = [name for label, name in enumerate(classes) if "train" in there and label not in there["train"]]
    return [
        *(f"{split} has only images of class '{name}'" for split, name in one),
        *(f"train has no images of class '{name}'" for name in gone),
    ]
