"""CelebA (Liu et al. 2015) with Haque and Kang's numbers of images: 19,999 to train on and 2,000 to test on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ismn_cli.core.errors import unknown_name
from ismn_cli.data import celeba_files as files
from ismn_cli.data.draws import hashed_order, split_by_hash
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.places import roots
from ismn_cli.data.problems import refusal
from ismn_cli.data.sources import DEFAULT_SIZE, Part, Source, image_set

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = 19_999, 2_000, 2_000
"""Images drawn from the official training partition, how many of them validate, and images of the test partition."""
NATIVE = 178
"""Pixels a side of the middle square of an aligned image."""
LAYOUT = (
    "Put the folder img_align_celeba, with list_attr_celeba.txt and list_eval_partition.txt beside it, or the folder "
    "CelebAMask-HQ, in DIR or DIR/celeba, and give --data-dir DIR."
)
CHECK = "`ismn data check celeba --data-dir DIR` names every file to put right, and says where to have it from."


def load(
    split: str, data_dir: Path | None = None, attribute: str = "Smiling", image_size: int = DEFAULT_SIZE
) -> ImageSet:
    """Return ``train`` (17,999 images), ``validation`` (2,000) or ``test`` (2,000), named "celeba/Smiling@128".

    Pixels are uint8 [N, 3, n, n]: the largest square in the middle of each image, resized by an antialiased
    bilinear filter. Two classes: without and with the attribute. ids are the numbers in the files' names. The
    split is a seeded draw by hash, not balanced: 19,999 of the official training partition, the last 2,000 of
    them to validate, and 2,000 of the official test partition. Where there are fewer, what is there is taken,
    and a tenth validates. The counts are the paper's (Haque and Kang 2021); that its draw was uniform is assumed.
    CelebA-HQ has the partition of the faces that it was made from. The files are looked for in ``data_dir``, in
    ISMN_DATA_DIR and in the home folder.
    Raises UsageError: no files; and all that is wrong with them, in one list.
    """
    if split not in SPLITS:
        raise unknown_name("split of celeba", split, SPLITS)
    return image_set(source(data_dir, attribute, image_size), split)


def source(data_dir: Path | None = None, attribute: str = "Smiling", image_size: int = DEFAULT_SIZE) -> Source:
    """Return what there is of CelebA. Raises UsageError where there is none, or its lists cannot be made sense of."""
    copy = find_copy(data_dir, image_size)
    if copy.missing():
        raise refusal(str(copy.base), copy.missing(), CHECK)
    return _source(copy, copy.stamps(), attribute, image_size)


@lru_cache(maxsize=2)
def _source(copy: files.Copy, _stamps: tuple[int, ...], attribute: str, image_size: int) -> Source:
    """Do the work of `source`, which takes seconds for 200,000 images, once for all splits."""
    assert copy.images is not None and copy.attributes is not None
    images, attributes = copy.images, copy.attributes
    column = files.read_column(attributes, attribute)
    partition, problems = _partition(copy, column.names)
    problems = [*column.problems, *problems, *missing_images(copy.base, images, column.names, attributes.name)]
    if problems and not any((images / name).exists() for name in column.names):
        raise refusal(str(copy.base), problems, CHECK)  # no need to name each
    parts, notes = _drawn(images, column, partition)
    if column.labels is not None:
        problems += one_class(parts, attribute)
    return Source(
        name=f"celeba/{attribute}",
        root=copy.base,
        classes=(f"not {attribute}", attribute),
        parts=parts,
        size=image_size,
        channels=3,
        problems=tuple(problems),
        notes=(*notes, _NO_MAPPING) if copy.kind == files.HQ and copy.mapping is None else tuple(notes),
        hint=CHECK,
        listed=column.names,
        folder=images,
        enlarged="they are up-sampled" if copy.kind == files.HQ else "they are up-sampled; CelebA-HQ's would not be",
    )


_NO_MAPPING = (
    f"CelebA-HQ comes without {files.MAPPING}.txt: a tenth of the images, drawn by hash, stands for the official "
    "test partition."
)


def find_copy(data_dir: Path | None, image_size: int = DEFAULT_SIZE) -> files.Copy:
    """Return the copy to use, complete or not. Raises UsageError where there is none."""
    copy = files.find_copy(roots(data_dir, lambda _: LAYOUT), large=image_size > NATIVE)
    if copy is None:
        where = f" in {data_dir}" if data_dir else ""
        raise refusal("celeba", [f"there is none{where}"], f"{LAYOUT} {CHECK}")
    return copy


def origins() -> list[str]:
    """Return where each file is to be had by hand."""
    from torchvision.datasets import CelebA  # noqa: PLC0415 - takes seconds to import

    needed = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
    found = [
        f"{name}: https://drive.google.com/uc?id={number} (md5 {md5})"
        for number, md5, name in CelebA.file_list
        if name in needed
    ]
    return [
        LAYOUT,
        *found,
        "All of them: http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, and its Google Drive, in a browser: scripts "
        "are often given a web page in place of the file.",
        "CelebA-HQ (CelebAMask-HQ.zip): https://github.com/switchablenorms/CelebAMask-HQ",
    ]


def _partition(copy: files.Copy, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Return file name -> 0, 1 or 2 for all of ``names`` that have one, and what is wrong with the lists."""
    given = files.read_partition(copy.partition) if copy.partition else None
    if copy.kind == files.ALIGNED:
        return given or {}, _differences(names, given or {}, files.PARTITION)
    if copy.mapping is None:
        test = split_by_hash([0] * len(names), names, ["test"])["test"]
        return dict.fromkeys(names, 0) | {names[i]: 2 for i in test}, []
    faces = files.read_mapping(copy.mapping)
    official = {face: files.official_partition(face) for face in faces.values()} if given is None else given
    found = {name: official[face] for name, face in faces.items() if face in official}
    return found, _differences(names, found, files.MAPPING)


def _differences(names: Sequence[str], partition: dict[str, int], source: str) -> list[str]:
    """Return lines on the images that only one of two lists has."""
    without = [name for name in names if name not in partition]
    beyond = len(partition) + len(without) - len(names)
    found = []
    if without:
        found.append(f"{source} lacks {len(without):,} of {len(names):,} images: {_some(without)}")
    if beyond > 0:
        found.append(f"{source} has {beyond:,} images that the attributes lack")
    return found


def missing_images(base: Path, images: Path, names: Sequence[str], listed_in: str) -> list[str]:
    """Return a line for each image that is listed and not there, and one for those that are not listed."""
    there = {path.name for path in images.iterdir() if not path.name.startswith(".")}
    folder = images.relative_to(base)
    if names and there.isdisjoint(names):
        return [f"{folder} has none of the {len(names):,} images that {listed_in} names"]
    gone = [f"{folder / name} is missing" for name in names if name not in there]
    beyond = sorted(there - set(names))
    if beyond:
        gone.append(f"{folder} has {len(beyond):,} files that {listed_in} does not name: {_some(beyond)}")
    return gone


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _drawn(images: Path, column: files.Column, partition: dict[str, int]) -> tuple[dict[str, Part], list[str]]:
    """Return the splits, and what is to be said of their sizes."""
    label_of = dict(zip(column.names, column.labels or (0,) * len(column.names), strict=True))
    numbers = {int(files.stem(name)): name for name in column.names}
    train = draw([n for n, name in numbers.items() if partition.get(name) == 0], "train", TRAIN)
    test = draw([n for n, name in numbers.items() if partition.get(name) == 2], "test", TEST)
    held = min(VALIDATION, -(-len(train) // 10))
    ids = {"train": train[: len(train) - held], "validation": train[len(train) - held :], "test": test}
    parts = {split: _part(images, sorted(chosen), numbers, label_of) for split, chosen in ids.items()}
    if len(train) == TRAIN and len(test) == TEST:
        return parts, []
    wanted = f"{TRAIN:,} training and {TEST:,} test images"
    return parts, [f"{images} has fewer than the {wanted} of the protocol: {len(train):,} and {len(test):,} are taken."]


def draw(ids: Sequence[int], purpose: str, count: int) -> list[int]:
    """Return the first ``count`` of a seeded order of ``ids``, which depends on nothing but them."""
    return [ids[i] for i in hashed_order(ids, f"celeba {purpose}")[:count]]


def _part(images: Path, ids: Sequence[int], numbers: dict[int, str], label_of: dict[str, int]) -> Part:
    names = [numbers[i] for i in ids]
    return Part(tuple(images / name for name in names), tuple(label_of[name] for name in names), tuple(ids))


def one_class(parts: dict[str, Part], attribute: str) -> list[str]:
    """Return a line for each split without images, or with one class only."""
    found = []
    for split, part in parts.items():
        if not part.labels:
            found.append(f"split {split} has no images")
        elif len(set(part.labels)) == 1:
            which = "have" if part.labels[0] else "lack"
            found.append(f"split {split}: all {len(part.labels):,} images {which} the attribute {attribute}")
    return found
