"""The names that a shell is told, for each parameter: from tables and folders. No torch, no file of a run is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import typer

from ismn_cli.core.references import Kind, plugins
from ismn_cli.core.storage import is_url

Names = Callable[[typer.Context, str], Iterable[str]]
"""Names that a value may be, given the command line so far and the value as far as it is typed."""
MANY = 50
"""Python files of a folder that are looked into for what they define, and runs that are told."""


def systems(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the systems."""
    from ismn_cli.core.catalogue import SYSTEMS

    return SYSTEMS


def trainable(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the systems that can be trained."""
    from ismn_cli.core.catalogue import TRAINABLE

    return TRAINABLE


def attacks(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the attacks."""
    from ismn_cli.core.catalogue import ATTACKS

    return ATTACKS


def datasets(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the data sets."""
    from ismn_cli.core.datasets import dataset_names

    return dataset_names()


def recipes(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the recipes that come with ismn."""
    from ismn_cli.core.recipe_files import packaged_names

    return packaged_names()


def claims(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the claims that come with ismn."""
    from ismn_cli.core.claim_files import packaged_names

    return packaged_names()


def lists(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return what `ismn list` has."""
    from ismn_cli.cli.listing import LISTINGS

    return LISTINGS


def checks(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the codes of the checks."""
    from ismn_cli.core.checks import CHECKS

    return CHECKS


def levels(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the knowledge levels."""
    from ismn_cli.core.specs import Knowledge

    return [level.value for level in Knowledge]


def formats(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the formats of reports."""
    from ismn_cli.reporting.render import FORMATS

    return FORMATS


def runs(ctx: typer.Context, word: str) -> Iterable[str]:
    """Return the ids of the runs in the store of the command line, the latest first."""
    root = str(ctx.params.get("store") or os.environ.get("ISMN_HOME") or "~/.ismn")
    if is_url(root):  # a key that is pressed waits for no server
        return []
    with suppress(OSError, RuntimeError):
        found = [entry for entry in os.scandir(Path(root).expanduser() / "runs") if entry.is_dir()]
        return [entry.name for entry in sorted(found, key=lambda e: -e.stat().st_mtime)[:MANY]]
    return []


def of(*names: str) -> Names:
    """Return names that are always the same."""
    return lambda ctx, word: names


def own(kind: Kind) -> Names:
    """Return the installed plug-ins of a kind, and what Python files define whose names begin like the word."""

    def names(ctx: typer.Context, word: str) -> list[str]:
        return [*plugins(kind), *defined(word)]

    return names


def defined(word: str) -> list[str]:
    """Return "path/to/file.py:Name" for what the files define that ``word`` may become."""
    from ismn_cli.core.reference_checks import defined_in

    if not word:
        return []
    place = word.partition(":")[0]
    folder, slash, start = place.rpartition("/")
    found: list[str] = []
    with suppress(OSError, RuntimeError, ValueError):
        there = sorted(Path(f"{folder}{slash}" or ".").expanduser().iterdir())
        files = [path for path in there if path.suffix == ".py" and path.name.startswith(start)]
        for path in files[:MANY]:
            found += [f"{folder}{slash}{path.name}:{name}" for name in defined_in(path)]
    return found


_RUN, _WEIGHTS = (of("latest"), runs), (of("auto", "released"), runs)
ONE: Mapping[str, tuple[Names, ...]] = {
    "dataset": (datasets, own("dataset")),
    "data check name": (datasets, own("dataset")),
    "model": (own("model"),),
    "reference": (own("model"), own("defence"), own("attack"), own("dataset"), systems, attacks, datasets),
    "recipe": (recipes,),
    "recipes cat name": (recipes,),
    "recipes cp name": (recipes,),
    "recipes check files": (recipes,),
    "init kind": (of("model", "defence", "attack", "dataset", "recipe"),),
    "check kind": (of("model", "defence", "attack", "dataset"),),
    "system": (trainable,),
    "source": (claims,),
    "what": (lists,),
    "run": _RUN,
    "first": _RUN,
    "second": _RUN,
    "baseline": _RUN,
    "weights": _WEIGHTS,
    "classifier": (of("fresh"), *_WEIGHTS),
    "form": (formats,),
    "audit form": (of("rich", "markdown", "json"),),
    "doctor form": (of("rich", "markdown", "json"),),
    "check form": (of("rich", "markdown", "json"),),
    "export form": (of("npz", "safetensors", "png"),),
    "norm": (of("linf", "l2"),),
    "device": (of("auto", "cpu", "cuda"),),
    "precision": (of("auto", "fp32", "bf16"),),
    "track": (of("tensorboard"),),
}
"""Parameter, or command and parameter -> the names that its value is one of."""
SOME: Mapping[str, tuple[Names, ...]] = {
    "defence": (systems, own("defence")),
    "transfer": (systems,),
    "compare": (systems,),
    "method": (attacks, own("attack")),
    "knowledge": (levels,),
    "audit check": (checks,),
}
"""Parameter -> the names that its values, joined by commas, are of."""
