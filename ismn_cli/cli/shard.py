"""A shard of a matrix, or only the trainings before it: what the jobs of a cluster do, each by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.cli import attack
from ismn_cli.cli.console import results_apart, say
from ismn_cli.cli.progress import Display
from ismn_cli.core.errors import UsageError

if TYPE_CHECKING:
    from ismn_cli.core.recipes import MatrixRecipe, Recipe

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


def shard_of(text: str) -> tuple[int, int]:
    """Read I/N, shard I of 1..N. Raises UsageError."""
    found = _SHARD.fullmatch(text.strip())
    shard, shards = map(int, found.groups()) if found else (0, 0)
    if not 1 <= shard <= shards:
        raise UsageError(f"--shard '{text}' is no shard.", "Write I/N with I from 1 to N, for example: --shard 1/4")
    return shard, shards


def alone(option: str, others: Mapping[str, object]) -> None:
    """Raise UsageError where one of ``others`` is given beside ``option``, which would make nothing of it."""
    for other, value in others.items():
        if value:
            raise UsageError(f"{option} and {other} do not go together.", f"Leave out {other}.")


def matrix_of(recipe: Recipe, name: str, option: str) -> MatrixRecipe:
    """Return ``recipe``, called ``name`` by who typed it, which is to be a matrix. Raises UsageError."""
    from ismn_cli.core.recipes import TrainRecipe

    if isinstance(recipe, TrainRecipe):
        raise UsageError(
            f"{option} is for a matrix of attacks, and '{name}' is a training.", f"Without it: ismn run {name}"
        )
    return recipe


@results_apart()
def carry_out(
    recipe: MatrixRecipe, place: tuple[int, int], data_dir: Path | None, device: str | None, store: Path | None
) -> None:
    """Compute shard I of 1..N of a matrix with progress; say what it did. Raises UsageError as `attack.carry_out`."""
    from ismn_cli.core.store import Store
    from ismn_cli.stages.matrix import compute_shard
    from ismn_cli.stages.plan import plan_matrix
    from ismn_cli.stages.trainings import finished_steps

    home = Store.open(store)
    steps = finished_steps(recipe, home, data_dir, device or "auto")
    matrix = plan_matrix(recipe, home, data_dir, device or "auto", steps=steps)
    attack.say_systems(matrix)
    with Display() as display:
        cells, stored = compute_shard(matrix, home, *place, display.matrix)
    shard = "/".join(map(str, place))
    if cells:
        say(f"shard {shard}: {cells} cells on its images, {stored} of them stored already")
    else:
        say(f"shard {shard}: nothing to do, there are only {matrix.batches()} batches")
    say(f"store: {home.root}")
    say("next:  when all shards are done, the same command without --shard puts them together")


@results_apart()
def train_only(
    recipe: MatrixRecipe, data_dir: Path | None, device: str | None, store: Path | None, track: Sequence[str]
) -> None:
    """Carry out the recipe's own trainings and nothing else. Raises UsageError where it has none."""
    from ismn_cli.core.store import Store
    from ismn_cli.stages.tracking import openers

    if not recipe.training:
        raise UsageError(f"Recipe '{recipe.name}' has no trainings of its own.", "Leave out --trainings.")
    attack.trained(recipe, Store.open(store), data_dir, device, openers(track))
