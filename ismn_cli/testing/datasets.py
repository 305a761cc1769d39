"""What a data set owes the harness: asked of what its function returns, before the harness makes anything of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ismn_cli.core.findings import Finding
from ismn_cli.testing import dataset_rules
from ismn_cli.testing.dataset_case import DatasetCase, open_case
from ismn_cli.testing.verdicts import Rules, insist


def check_dataset(
    data: Callable[..., Any], *, subject: str = "", classes: tuple[str, ...] | None = None
) -> tuple[Finding, ...]:
    """Ask every rule of a data set: a function data(split) for the splits train, validation and test.

    It returns (pixels, labels), a torch Dataset of (image, label), or None for a split that it has not; test there
    must be. Each split is loaded twice. ``classes``: their names, else the function's own attribute ``classes``.
    Returns what every rule says; raises ConformanceError, an AssertionError that names all that are broken.

    >>> import numpy as np
    >>> def data(split):
    ...     draw = np.random.default_rng(["train", "validation", "test"].index(split))
    ...     return draw.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), np.arange(20) % 2
    >>> [finding.code for finding in check_dataset(data) if finding.verdict == 'warn']
    []
    """
    name = subject or str(getattr(data, "__name__", type(data).__name__))
    return insist(name, dataset_findings(data, name, classes))


def dataset_findings(
    data: Callable[..., Any], subject: str, classes: tuple[str, ...] | None = None
) -> tuple[Finding, ...]:
    """Return what every rule says of a data set; see `check_dataset`."""
    return tuple(_RULES.findings(open_case(data, classes), subject, 0))


_ASKED: Mapping[str, Callable[[DatasetCase], Any]] = {
    "CS01": dataset_rules.images,
    "CS02": dataset_rules.pixels,
    "CS03": dataset_rules.labels,
    "CS04": dataset_rules.classes,
    "CS05": dataset_rules.coverage,
    "CS06": dataset_rules.disjoint,
    "CS07": dataset_rules.stable,
    "CS08": dataset_rules.duplicates,
}
_RULES: Rules[DatasetCase] = Rules(_ASKED, ("CS01", "CS03"))
