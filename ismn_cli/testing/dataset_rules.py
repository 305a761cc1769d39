"""The rules of a data set, CS01 to CS08."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from ismn_cli.testing.dataset_case import DatasetCase, Split
from ismn_cli.testing.verdicts import Said, doubt, either, fine, unasked

CHANNELS = (1, 3)


def images(case: DatasetCase) -> Said:
    """CS01: there are images to test on, of one shape that a model takes."""
    problems = [f"{name}: {told}" for name, told in case.raised.items() if name == "test" or not case.splits]
    if "test" not in case.splits and "test" not in case.raised:
        problems.append("there is no test split")
    for name, split in case.splits.items():
        problems += [f"{name}: {problem}" for problem in _image_problems(split)]
    channels = {image.shape[0] for split in case.splits.values() for image in split.images if image.ndim == 3}
    if not problems and len(channels) > 1:
        problems.append("some images are grey and some in colour")
    told = ", ".join(f"{len(split.images):,} of {name}" for name, split in case.splits.items())
    return either(problems, f"There are {told}.")


def _image_problems(split: Split) -> Iterator[str]:
    if not split.images:
        yield "there are no images"
    strange = [image.shape for image in split.images if image.ndim != 3 or image.shape[0] not in CHANNELS]
    if strange:
        yield f"an image is {list(strange[0])}, not [C, H, W] or [H, W, C] with 1 or 3 channels"


def pixels(case: DatasetCase) -> Said:
    """CS02: bytes, or floats in [0, 1]."""
    problems = [f"{name}: {problem}" for name, split in case.splits.items() for problem in _pixel_problems(split)]
    return either(problems, "Pixels are whole grey levels, or floats in [0, 1].")


def _pixel_problems(split: Split) -> Iterator[str]:
    kinds = {image.dtype for image in split.images}
    if strange := sorted(str(kind) for kind in kinds if kind != np.uint8 and kind.kind != "f"):
        yield f"pixels are {strange[0]}, neither uint8 nor floats"
        return
    low, high = min(float(image.min()) for image in split.images), max(float(image.max()) for image in split.images)
    if not all(bool(np.isfinite(image).all()) for image in split.images):
        yield "pixels are not finite"
    elif kinds == {np.dtype(np.uint8)}:
        if high <= 1:
            yield f"grey levels lie between {low:g} and {high:g}: floats of [0, 1] were rounded to bytes"
    elif low < 0 or high > 1:
        yield f"floats lie between {low:.4g} and {high:.4g}"


def labels(case: DatasetCase) -> Said:
    """CS03: a whole number from 0 for each image."""
    problems = [f"{name}: {problem}" for name, split in case.splits.items() for problem in _label_problems(split, case)]
    return either(problems, "Every image has one label.")


def _label_problems(split: Split, case: DatasetCase) -> Iterator[str]:
    if len(split.images) != len(split.labels):
        yield f"{len(split.images):,} images have {len(split.labels):,} labels"
    arrays = [np.asarray(label) for label in split.labels]
    if any(array.size != 1 for array in arrays):
        yield "a label is not one number"
    elif strange := sorted({str(array.dtype) for array in arrays if array.dtype.kind not in "iu"}):
        yield f"labels are {strange[0]}, not integers"
    else:
        yield from _range_problems(split.numbers(), case)


def _range_problems(found: list[int], case: DatasetCase) -> Iterator[str]:
    if found and min(found) < 0:
        yield f"a label is {min(found)}"
    if found and case.classes and max(found) >= len(case.classes):
        yield f"a label is {max(found)}, and {len(case.classes)} classes are named (from 0)"


def classes(case: DatasetCase) -> Said:
    """CS04: names, each of one class."""
    if case.classes is None:
        return unasked("It names no classes; they are called by their numbers.")
    twice = [name for name, count in Counter(case.classes).items() if count > 1]
    problems = [f"{twice[0]!r} names {case.classes.count(twice[0])} classes"] if twice else []
    problems += ["one class is named: nothing is to be told"] if len(case.classes) < 2 else []
    return either(problems, f"{len(case.classes)} classes have names of their own.")


def coverage(case: DatasetCase) -> Said:
    """CS05: images of every class in every split."""
    problems = []
    for name, split in case.splits.items():
        missing = sorted(set(range(case.count)) - set(split.numbers()))
        if missing:
            told = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            problems.append(f"{name} has no image of class {told}")
    return either(problems, f"Every split has images of all {case.count} classes.")


def disjoint(case: DatasetCase) -> Said:
    """CS06: no image in two splits."""
    if len(case.splits) < 2:
        return unasked("There is one split only.")
    problems = []
    for one, other in combinations(case.splits, 2):
        shared = set(case.splits[one].contents) & set(case.splits[other].contents)
        if shared:
            problems.append(f"{len(shared):,} images are both in {one} and in {other}")
    return either(problems, f"{', '.join(case.splits)} have no image in common.")


def stable(case: DatasetCase) -> Said:
    """CS07: the same, twice."""
    problems = []
    for name, split in case.splits.items():
        again = case.again[name]
        if split.contents != again.contents:
            same = sorted(split.contents) == sorted(again.contents)
            problems.append(f"{name} comes {'in another order' if same else 'with other pixels'} the second time")
        elif split.numbers() != again.numbers():
            problems.append(f"{name} comes with other labels the second time")
    return either(problems, "Loaded twice, it is the same.")


def duplicates(case: DatasetCase) -> Said:
    """CS08: each image once."""
    told = []
    for name, split in case.splits.items():
        copies = len(split.contents) - len(set(split.contents))
        told += [f"{copies:,} of {len(split.contents):,} images of {name} are copies of others"] if copies else []
    return doubt(f"{'; '.join(told)}.") if told else fine("No image is there twice.")
