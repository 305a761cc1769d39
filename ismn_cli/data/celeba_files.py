"""CelebA's files: where they lie in the layouts that people have, and what their lists say.

``list_attr_celeba`` and ``list_eval_partition`` are read in the authors' form (.txt) and as comma-separated tables
(.csv); CelebA-HQ in the layout of CelebAMask-HQ.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ismn_cli.core.settings import nearest
from ismn_cli.data.pictures import is_web_page

ALIGNED, HQ = "img_align_celeba", "CelebA-HQ-img"
ATTRIBUTES = {ALIGNED: "list_attr_celeba", HQ: "CelebAMask-HQ-attribute-anno"}
PARTITION, MAPPING = "list_eval_partition", "CelebA-HQ-to-CelebA-mapping"
LAST_OF_TRAIN, LAST_OF_VALIDATION = 162_770, 182_637
"""Numbers of the last images of the official training and validation partition."""

_BASES = ("", "celeba", "CelebA", "CelebAMask-HQ", "CelebA-HQ")
_LISTS = ("", "Anno", "Eval")
_FOLDERS = (f"{ALIGNED}/{ALIGNED}", ALIGNED, f"Img/{ALIGNED}", f"Img/{ALIGNED}/{ALIGNED}", HQ)


@dataclass(frozen=True)
class Copy:
    """A copy of CelebA; what is None is not there."""

    base: Path
    kind: str
    """`ALIGNED` or `HQ`."""
    images: Path | None
    attributes: Path | None
    partition: Path | None
    mapping: Path | None

    def missing(self) -> list[str]:
        """Return a line for each thing without which the copy is of no use."""
        found = [] if self.images else [_no_images(self.base, self.kind)]
        if self.attributes is None:
            found.append(f"{ATTRIBUTES[self.kind]}.txt is missing")
        if self.kind == ALIGNED and self.partition is None:
            found.append(f"{PARTITION}.txt is missing")
        lists = (self.attributes, self.partition, self.mapping)
        return found + [f"{path.name} is a web page, not a list" for path in lists if path and is_web_page(path)]

    def stamps(self) -> tuple[int, ...]:
        """Return when each part last changed: a file in its content, the folder in its names."""
        there = (self.images, self.attributes, self.partition, self.mapping)
        return tuple(path.stat().st_mtime_ns if path else 0 for path in there)


@dataclass(frozen=True)
class Column:
    """One attribute of every image."""

    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    """0 or 1; None where there is no such attribute."""
    problems: tuple[str, ...]


def find_copy(roots: Iterable[Path], large: bool) -> Copy | None:
    """Return the first copy, complete or not; where both are, CelebA-HQ if ``large``, else the aligned images."""
    for root in roots:
        copies = [copy for name in _BASES if (root / name).is_dir() for copy in _copies_in(root / name)]
        ranked = sorted(copies, key=lambda copy: (copy.images is None, (copy.kind == HQ) != large))
        if ranked:
            return ranked[0]
    return None


def _copies_in(base: Path) -> Iterator[Copy]:
    partition, mapping = _list_in(base, PARTITION), _list_in(base, MAPPING)
    for kind, attributes in ATTRIBUTES.items():
        here = [base / name for name in _FOLDERS if name.endswith(kind) and (base / name).is_dir()]
        lists = _list_in(base, attributes)
        if here or lists or (base / f"{kind}.zip").exists():
            yield Copy(base, kind, here[0] if here else None, lists, partition, mapping)


def _list_in(base: Path, name: str) -> Path | None:
    places = (base / folder / f"{name}{suffix}" for folder in _LISTS for suffix in (".txt", ".csv"))
    return next((place for place in places if place.is_file()), None)


def _no_images(base: Path, kind: str) -> str:
    archive = base / f"{kind}.zip"
    if not archive.is_file():
        return f"the folder {kind} is missing"
    if is_web_page(archive):
        return f"{archive.name} is a web page, not a zip: the server's quota page, saved under that name"
    if not zipfile.is_zipfile(archive):
        return f"{archive.name} is cut short, or no zip"
    return f"{archive.name} is not unpacked: unzip it in {base}"


def read_column(path: Path, attribute: str) -> Column:
    """Read one attribute. An unknown one, rows that cannot be read and a wrong count are problems."""
    count, header, rows = _table(path)
    width = len(header) + 1
    wrong = {number: _wrong_row(row, width) for number, row in enumerate(rows)}
    sound = [row for number, row in enumerate(rows) if not wrong[number]]
    names = tuple(dict.fromkeys(row[0] for row in sound))
    problems = [f"{path.name}: {text}" for text in wrong.values() if text]
    if count is not None and count != len(rows):
        problems.insert(0, f"{path.name} says {count:,} images and lists {len(rows):,}")
    if len(names) < len(sound):
        problems.append(f"{path.name} lists {len(sound) - len(names):,} images twice")
    if attribute not in header:
        unknown = f"there is no attribute '{attribute}' in {path.name}; {nearest(attribute, header)}"
        return Column(names, None, (*problems, unknown))
    place = header.index(attribute) + 1
    values = {row[0]: row[place] for row in sound}
    odd = [name for name, value in values.items() if value not in _LABELS]
    problems += [f"{path.name}: {name} has {values[name]}, not 1 or -1" for name in odd]
    return Column(names, tuple(_LABELS.get(value, 0) for value in values.values()), tuple(problems))


_LABELS = {"1": 1, "1.0": 1, "-1": 0, "-1.0": 0, "0": 0}


def _wrong_row(row: list[str], width: int) -> str:
    if len(row) != width:
        return f"the row of {row[0]} has {len(row)} entries, not {width}"
    return "" if stem(row[0]).isdecimal() else f"{row[0]} is no image of CelebA, whose names are numbers"


def read_partition(path: Path) -> dict[str, int]:
    """Return file name -> 0 (training), 1 (validation) or 2 (test); rows of another form are left out."""
    rows = (line.replace(",", " ").split() for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1] in ("0", "1", "2")}


def read_mapping(path: Path) -> dict[str, str]:
    """Return CelebA-HQ's file name -> the file name of the same face in CelebA; rows of another form are left out."""
    rows = (line.replace(",", " ").split() for line in _lines(path))
    return {
        f"{int(row[0])}.jpg": row[2]
        for row in rows
        if len(row) == 3 and row[0].isdecimal() and stem(row[2]).isdecimal()
    }


def stem(name: str) -> str:
    """Return a file's name without its suffix."""
    return name.rpartition(".")[0]


def official_partition(name: str) -> int:
    """Return the official partition of an image of CelebA by its number: 0, 1 or 2."""
    number = int(stem(name))
    return (number > LAST_OF_TRAIN) + (number > LAST_OF_VALIDATION)


def _table(path: Path) -> tuple[int | None, list[str], list[list[str]]]:
    """Return the number of images that a list says it has, the attributes, and its rows."""
    rows = [line.replace(",", " ").split() for line in _lines(path)]
    rows = [row for row in rows if row]
    count = int(rows.pop(0)[0]) if rows and len(rows[0]) == 1 and rows[0][0].isdigit() else None
    header = rows.pop(0) if rows else []
    return count, header[1:] if header[:1] == ["image_id"] else header, rows


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
