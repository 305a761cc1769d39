"""A data set examined before anything is trained on it: what there is, and every file that is not as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import DatasetEntry, load
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice

if TYPE_CHECKING:
    from ismn_cli.data.decoded import Survey
    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.data.sources import Source

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitCount:
    """A split, and how many images of each class it has."""

    split: str
    classes: dict[str, int]

    @property
    def images(self) -> int:
        """Images of all classes."""
        return sum(self.classes.values())

    @property
    def majority(self) -> float:
        """Accuracy of always answering the largest class; 0 for no images."""
        return max(self.classes.values(), default=0) / max(self.images, 1)


@dataclass(frozen=True)
class DataReport:
    """What there is of a data set."""

    name: str
    splits: tuple[SplitCount, ...] = ()
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    """What to do about the problems."""
    facts: tuple[str, ...] = ()
    """Sizes in words."""


def check_data(choice: DataChoice, data_dir: Path | None, full: bool) -> DataReport:
    """Examine a data set: headers, sizes and end markers; with ``full``, decode every file. Nothing is downloaded.

    Raises UsageError for a name, an option or a folder that does not exist; what is wrong with the data is in the
    report.
    """
    from ismn_cli.data.loading import chosen

    entry, options = chosen(choice)
    if data_dir is not None and not data_dir.exists():
        raise UsageError(f"--data-dir names {data_dir}, which does not exist.", "Give the folder of the data set.")
    files = entry.source is not None
    report = _of_files(entry, options, data_dir, full) if files else _of_arrays(entry, choice, data_dir)
    if report.problems and entry.origins:
        return replace(report, hints=tuple(load(entry.origins)()))
    return report


def _of_files(entry: DatasetEntry, options: dict[str, str | int], data_dir: Path | None, full: bool) -> DataReport:
    from ismn_cli.data.decoded import examined
    from ismn_cli.data.problems import DataError
    from ismn_cli.data.sources import channel_problems

    try:
        source: Source = load(str(entry.source))(data_dir, **options)
    except DataError as error:
        return DataReport(entry.name, problems=error.problems, hints=(error.hint,))
    there = {path: path.exists() for path in source.files()}
    files = [path for path, exists in there.items() if exists]
    gone = source.inside([(str(path), "is missing") for path, exists in there.items() if not exists])
    survey, broken = examined([str(path) for path in files], full)
    problems = [*source.problems, *gone, *source.inside(broken), *channel_problems(source, survey)]
    what = "decoded" if full else "examined by header and end; --full decodes them"
    facts = (f"{len(files):,} files of {_bytes(files)}, {what}", _sizes(survey), *source.notes)
    splits = tuple(_counted(name, source.classes, part.labels) for name, part in source.parts.items())
    return DataReport(source.name, splits, tuple(dict.fromkeys(problems)), (source.hint,) if problems else (), facts)


def _of_arrays(entry: DatasetEntry, choice: DataChoice, data_dir: Path | None) -> DataReport:
    from ismn_cli.data.loading import load_dataset, not_at_hand
    from ismn_cli.data.problems import NoSplitError

    absent = not_at_hand(entry.name, data_dir)
    if absent is not None:
        return DataReport(entry.name, problems=(absent.message,), hints=(absent.hint,))
    errors: dict[str, str] = {}
    found: list[ImageSet] = []
    for split in SPLITS if entry.trainable else SPLITS[-1:]:
        try:
            found.append(load_dataset(choice, split, data_dir))
        except NoSplitError:
            continue
        except UsageError as error:
            errors[error.message] = error.hint
    splits = tuple(_counted(images.split, images.classes, images.labels.tolist()) for images in found)
    facts = tuple(f"{i.split}: {' x '.join(map(str, i.pixels.shape))}, sha256 {i.data_hash[:16]}" for i in found)
    name = found[0].name if found else entry.name
    return DataReport(name, splits, tuple(errors), tuple(dict.fromkeys(errors.values())), facts)


def _counted(split: str, classes: Sequence[str], labels: Sequence[int]) -> SplitCount:
    counts = [0] * len(classes)
    for label in labels:
        counts[label] += 1
    return SplitCount(split, dict(zip(classes, counts, strict=True)))


def _bytes(files: Sequence[Path]) -> str:
    total = sum(path.stat().st_size for path in files)
    return f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"


def _sizes(survey: Survey) -> str:
    ranked = sorted(survey.sizes.items(), key=lambda item: -item[1])
    named = [f"{width} x {height} ({count:,})" for (width, height), count in ranked[:3]]
    more = [f"{len(ranked) - 3:,} other sizes"] if len(ranked) > 3 else []
    return "native sizes: " + (", ".join(named + more) or "none")
