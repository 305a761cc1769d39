"""Data sets by whatever names them: a built-in one, torchvision:NAME, a reference, an installed plug-in."""

from __future__ import annotations

import difflib
import posixpath
from typing import NamedTuple

from ismn_cli.core.catalogue import DATASETS, DatasetEntry
from ismn_cli.core.errors import UsageError
from ismn_cli.core.references import is_reference, plugins
from ismn_cli.core.torchvision_sets import PREFIX, SETS


def find_dataset(name: str) -> DatasetEntry:
    """Return the data set that ``name`` stands for; nothing of it is imported or read.

    Raises UsageError: none is called so, with the nearest that is.
    """
    if not is_known(name):
        hint = near(name)
        end = "" if hint.endswith("?") else "."
        raise UsageError(f"There is no data set called '{name}'.", f"{hint[0].upper()}{hint[1:]}{end}")
    if name in DATASETS:
        return DATASETS[name]
    return _torchvision(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else _referred(name)


def is_known(name: str) -> bool:
    """Return whether a data set is called so, or may be: a reference is not looked up."""
    if name in DATASETS or name.startswith(PREFIX):
        return name in DATASETS or name.removeprefix(PREFIX) in SETS
    return is_reference(name) or name in plugins("dataset")


def is_code(name: str) -> bool:
    """Return whether to load this data set is to run code that is neither ismn's nor torchvision's."""
    return not (name in DATASETS or name.startswith(PREFIX)) and is_known(name)


def near(name: str) -> str:
    """Return "did you mean 'x'?", whatever its case, torchvision's without their prefix too; else all names."""
    names, known = {which.lower(): PREFIX + which for which in SETS}, list(SETS)
    if not name.startswith(PREFIX):
        own = [*DATASETS, *plugins("dataset")]
        names, known = names | {one.lower(): one for one in own}, [*own, f"{PREFIX}NAME", "FILE.py:NAME"]
    found = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), names, n=1, cutoff=0.5)
    return f"did you mean '{names[found[0]]}'?" if found else f"known are {', '.join(known)}"


def dataset_names() -> list[str]:
    """Return every name that can be typed, but for references."""
    return [*DATASETS, *plugins("dataset"), *(PREFIX + name for name in SETS)]


def _torchvision(which: str) -> DatasetEntry:
    return DatasetEntry(
        name=PREFIX + which,
        summary=f"torchvision's {which}: {SETS[which].classes} classes",
        load="ismn_cli.data.torchvision_set:load",
        trainable=True,
        options=("image_size",),
        arguments={"which": which},
    )


def _referred(name: str) -> DatasetEntry:
    reference = name if is_reference(name) else plugins("dataset")[name]
    return DatasetEntry(
        name=_spelt(name),
        summary=f"{reference}(split)",
        load="ismn_cli.data.referred:load",
        trainable=True,
        options=("image_size",),
        arguments={"reference": reference, "name": _spelt(name)},
    )


def _spelt(reference: str) -> str:
    """Return a reference in one spelling, which `named` reads back: ./a/../b.py:data is b.py:data."""
    place, colon, attribute = reference.rpartition(":")
    if not place.endswith(".py"):
        return reference
    path = posixpath.normpath(place)
    return f"{'./' if path.partition('/')[0] in DATASETS else ''}{path}{colon}{attribute}"


class Named(NamedTuple):
    """What the name of a set of images says: "celeba/Smiling@128"."""

    name: str
    """As it is typed after --dataset."""
    rest: str
    """What was chosen of it, or what the user calls it: "Smiling"."""
    size: int | None
    options: tuple[str, ...]
    """Which of `DataChoice.options` it takes."""


def named(dataset: str) -> Named:
    """Read the name of a set of images."""
    whole, _, size = dataset.rpartition("@")
    if not (whole and size.isascii() and size.isdigit()):
        whole, size = dataset, ""
    name, _, rest = whole.partition("/")
    if name not in DATASETS:
        name, rest = whole, ""
    options = find_dataset(name).options if is_known(name) else ()
    return Named(name, rest, int(size) if size else None, options)
