"""Images that the user's own code gives: ``data(split)`` or ``data(split, data_dir)`` by its reference."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.references import load_attribute, running
from ismn_cli.data.draws import split_by_hash, too_few
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.items import Labels, Pixels, image_set, pixels_and_labels
from ismn_cli.data.npz_files import ArrayError
from ismn_cli.data.problems import no_split, refusal

SPLITS = ("train", "validation", "test")
FORM = (
    "A data set is a function data(split) or data(split, data_dir), split one of train, validation, test. It returns "
    "(pixels, labels), pixels [N, C, H, W] of bytes or of floats in [0, 1], or a torch Dataset of (image, label); or "
    "None for a split that it has not."
)
Given = tuple[Pixels, Labels, tuple[str, ...]]
"""Pixels, labels, and the names of the classes where they are known."""


def load(
    split: str, data_dir: Path | None = None, image_size: int | None = None, *, reference: str, name: str = ""
) -> ImageSet:
    """Return a split of what ``reference`` gives, named "NAME@SIZE".

    Pixels and labels are those of `items.pixels_and_labels`; ids are the positions. The names of the classes are an
    attribute ``classes`` of the function, or of the Dataset that it returns; without it they are the numbers up to
    the highest label of any split. Where it has no validation split a tenth of each class of train is drawn for it.
    Raises UsageError: what the code raises, and what is wrong with what it returns.
    """
    if split not in SPLITS:
        raise no_split(name or reference, split, SPLITS)
    read = _Reader(reference, data_dir, image_size)
    given = read.split("train" if split == "validation" else split)
    drawn = None
    if split != "test":
        own = read.split("validation")
        if own is None and given is not None:
            drawn = _drawn(given[1], reference)[split]
        elif split == "validation":
            given = own
    if given is None:
        raise no_split(name or reference, split, [other for other in SPLITS if read.split(other) is not None])
    pixels, labels, declared = given
    return image_set(name or reference, split, pixels, labels, read.classes(declared), drawn)


def _drawn(labels: Labels, reference: str) -> dict[str, list[int]]:
    few = too_few(labels.tolist(), ["validation"])
    if few:
        raise refusal(reference, [f"train has too few images of class {few[0]} to be split: 2 are the least"], FORM)
    return split_by_hash(labels.tolist(), range(len(labels)), ["validation"])


class _Reader:
    """Asks the user's function, once for each split."""

    def __init__(self, reference: str, data_dir: Path | None, size: int | None) -> None:
        self.reference, self.size = reference, size
        named = os.environ.get("ISMN_DATA_DIR")
        self.data_dir = data_dir or (Path(named) if named else None)
        self.function = _function(reference)
        self._found: dict[str, Given | None] = {}

    def split(self, split: str) -> Given | None:
        """Return a split; None where there is none. Raises UsageError."""
        if split not in self._found:
            call = _call(self.function, split, self.data_dir, self.reference)
            # what the user's code prints is no result
            with redirect_stdout(sys.stderr):
                self._found[split] = running(f"{self.reference}({split!r})", lambda: self._read(call, split))
        return self._found[split]

    def _read(self, call: Callable[[], Any], split: str) -> Given | None:
        given = call()
        if given is None:
            return None
        try:
            pixels, labels = pixels_and_labels(given, self.size)
        except ArrayError as error:
            raise refusal(f"{self.reference}({split!r})", [str(error)], FORM) from None
        if not len(labels):
            raise refusal(f"{self.reference}({split!r})", ["there are no images"], FORM)
        declared = getattr(self.function, "classes", None) or getattr(given, "classes", None) or ()
        return pixels, labels, tuple(map(str, declared))

    def classes(self, declared: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the classes. Raises UsageError where labels do not fit them."""
        splits = [self.split(split) for split in (SPLITS if not declared else tuple(self._found))]
        highest = max(int(found[1].max()) for found in splits if found is not None)
        images = sum(len(found[1]) for found in splits if found is not None)
        names = declared or tuple(map(str, range(min(highest + 1, images))))
        if highest >= len(names) or len(names) < 2:
            most = f"{len(names)} classes are declared" if declared else f"there are {images:,} images"
            problem = f"the highest label is {highest} and {most}; labels number two classes or more from 0"
            raise refusal(self.reference, [problem], f"{FORM} Set its attribute classes to the names of all.")
        return names


def _function(reference: str) -> Callable[..., Any]:
    with redirect_stdout(sys.stderr):
        found = load_attribute(reference, "dataset")
    module = str(getattr(found, "__module__", ""))
    if module.startswith("torchvision.datasets") and inspect.isclass(found):
        raise UsageError(f"{reference} is torchvision's.", f"Write torchvision:{found.__name__} for its named splits.")
    if not callable(found):
        raise UsageError(f"{reference} is a {type(found).__name__}, not a function.", FORM)
    function: Callable[..., Any] = found
    return function


def _call(
    function: Callable[..., Any], split: str, data_dir: Path | None, reference: str
) -> Callable[[], Any]:
    """Return the call of the user's function. Raises UsageError where it cannot be called with a split."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return lambda: function(split=split)
    given: dict[str, Any] = {"data_dir": data_dir} if "data_dir" in signature.parameters else {}
    try:
        signature.bind(split=split, **given)
    except TypeError as error:
        message = f"{reference} cannot be called with a split: {error}."
        raise UsageError(message, f"It takes {signature}. {FORM}") from None
    return lambda: function(split=split, **given)
