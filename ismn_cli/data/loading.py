"""Data sets by name or reference: the one way from a choice to its images."""

from __future__ import annotations

from pathlib import Path

from ismn_cli.core import catalogue
from ismn_cli.core.datasets import find_dataset
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.torchvision_sets import PREFIX
from ismn_cli.data import cifar10_files, mnist_files
from ismn_cli.data.cifar10_files import ALL_BATCHES, find_copy
from ismn_cli.data.image_set import ImageSet


def load_dataset(choice: DataChoice, split: str, data_dir: Path | None, seed: int = 0) -> ImageSet:
    """Return a split of a data set; with a limit, the first images of a seeded, balanced order.

    See `ImageSet.select` for the order. Raises UsageError: an unknown name or split, an option that the data set
    does not take, missing or damaged files.
    """
    entry, options = chosen(choice)
    images: ImageSet = catalogue.load(entry.load)(split, data_dir, **options)
    return images if choice.limit is None else images.select(choice.limit, seed)


def chosen(choice: DataChoice) -> tuple[catalogue.DatasetEntry, dict[str, str | int]]:
    """Return the data set and its options. Raises UsageError: an unknown name, an option that it does not take."""
    entry = find_dataset(choice.name)
    options = choice.options()
    idle = [name for name in options if name not in entry.options]
    if idle:
        able = [other.name for other in catalogue.DATASETS.values() if idle[0] in other.options]
        raise UsageError(
            f"{entry.name} takes no {idle[0]}.", f"Leave it out; data sets that do: {', '.join(able) or 'none'}."
        )
    return entry, {**options, **entry.arguments}


def dataset_at_hand(data_dir: Path | None) -> bool:
    """Return whether the whole of cifar10 is on this machine; nothing is read or downloaded."""
    try:
        return find_copy(ALL_BATCHES, data_dir) is not None
    except UsageError:
        return False


def not_at_hand(name: str, data_dir: Path | None) -> UsageError | None:
    """Return the error for a data set that would have to be downloaded; None where it is here or is not one of those.

    Nothing is read or downloaded.
    """
    try:
        if name == "cifar10" and find_copy(ALL_BATCHES, data_dir) is None:
            return _absent(cifar10_files.not_found("", data_dir))
        if name == "mnist" and not all(mnist_files.find_copy(part, data_dir) for part in mnist_files.COUNTS):
            return _absent(mnist_files.not_found("", data_dir))
        if name.startswith(PREFIX):
            from ismn_cli.data.torchvision_set import not_here  # noqa: PLC0415 - seconds to import

            return not_here(find_dataset(name).arguments["which"], data_dir)
    except UsageError as error:
        return error
    return None


def _absent(error: UsageError) -> UsageError:
    return UsageError("It is not on this machine.", f"{error.hint} Or leave it to `ismn train`, which downloads it.")
