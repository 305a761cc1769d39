"""Any user's images: a folder for each class, in torchvision's ImageFolder layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.pictures import SUFFIXES
from ismn_cli.data.places import own_place
from ismn_cli.data.problems import refusal
from ismn_cli.data.sources import SPLITS, Part, Source, image_set, with_all_splits

LAYOUT = (
    "Lay the images out as DIR/train/CLASS/*.jpg, DIR/validation/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or only as "
    "DIR/CLASS/*.jpg, which is then split by hash; and give --data-dir DIR."
)
CHECK = "Put those files right, or take them away. `ismn data check folder --data-dir DIR --full` decodes every one."


def load(split: str, data_dir: Path | None = None, image_size: int | None = None) -> ImageSet:
    """Return ``train``, ``validation`` or ``test`` of the images in ``data_dir``, named "folder/NAME@SIZE".

    Pixels are uint8 [N, C, n, n]: the largest square in the middle of each image, resized by an antialiased
    bilinear filter to ``image_size``; without it to 128, unless all images are squares of one smaller size. Sets
    that are grey throughout have one channel and are not mirrored in training. Classes are the names of their
    folders in order; ids the positions in the sorted list of files. See `source` for the splits.
    Raises UsageError: no such folder, and all that is wrong in it, in one list.
    """
    return image_set(source(data_dir, image_size), split)


def source(data_dir: Path | None = None, image_size: int | None = None) -> Source:
    """Return what the folder offers.

    Splits are folders of their own; where one for validation or for both that and test is missing, a tenth of
    each class is drawn for it from the rest, by a hash of the files' names. A folder with a test set alone has
    no other split. Where only validation is given it is the test set, as with ImageNet.
    """
    root = own_place("folder", data_dir, LAYOUT).absolute()
    if not root.is_dir():
        raise refusal(str(root), ["is not a folder"], LAYOUT)
    folders = _split_folders(root)
    notes: list[str] = []
    if set(folders) == {"train", "validation"}:
        folders = {"train": folders["train"], "test": folders["validation"]}
        notes.append(f"{root} has no test set: {folders['test'].name} stands for it.")
    places = folders or {"train": root}
    classes = tuple(sorted({name for place in places.values() for name in _class_folders(place)}))
    parts = {name: _part(place, classes) for name, place in places.items()}
    found = Source(
        name=f"folder/{root.resolve().name.replace('@', '-')}",
        root=root,
        classes=classes,
        parts=parts,
        size=image_size,
        problems=tuple(_problems(root, places, parts, classes)),
        notes=tuple(notes),
        hint=CHECK if any(part.files for part in parts.values()) else LAYOUT,
    )
    return with_all_splits(found)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the splits that have a folder with class folders in it; empty where the classes are here."""
    found = {}
    for split, names in SPLITS.items():
        here = [root / name for name in names if _class_folders(root / name)]
        if here:
            found[split] = here[0]
    return found


def _class_folders(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _part(place: Path, classes: Sequence[str]) -> Part:
    files = [(path, label) for label, name in enumerate(classes) for path in _images(place / name)]
    return Part(tuple(path for path, _ in files), tuple(label for _, label in files), tuple(range(len(files))))


def _images(place: Path) -> list[Path]:
    found = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(found, key=str)


def _problems(root: Path, places: dict[str, Path], parts: dict[str, Part], classes: Sequence[str]) -> list[str]:
    if len(classes) < 2:
        only = f"only the class '{classes[0]}'" if classes else "no folders of classes"
        return [f"there {'is' if classes else 'are'} {only}"]
    found = []
    for split, place in places.items():
        there = set(parts[split].labels)
        empty = [name for label, name in enumerate(classes) if label not in there]
        found += [f"{(place / name).relative_to(root)} has no images" for name in empty]
    return found
