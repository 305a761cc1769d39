"""The processes of a training that torchrun started: how many there are, and which one this is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ismn_cli.core.errors import UsageError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """One process among ``size``."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on this machine."""

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> World:
        """Return what the environment says: torchrun's variables, else a single process. Raises UsageError."""
        if "TORCHELASTIC_RUN_ID" not in environment:  # others set RANK and WORLD_SIZE too, for jobs that are not ours
            return cls()
        try:
            rank, size, local = (int(environment[name]) for name in _NAMES)
        except (KeyError, ValueError):
            rank, size, local = -1, 0, -1
        if not 0 <= local <= rank < size:
            told = ", ".join(f"{name}={environment.get(name, '')}" for name in _NAMES)
            raise UsageError(
                f"The variables of torchrun are not as torchrun sets them ({told}).",
                "Start it with: torchrun --nproc-per-node 2 -m ismn_cli train ...; or unset them.",
            )
        return cls(rank, size, local)


def alone(command: str) -> None:
    """Raise UsageError where ``command``, which is the work of one process, was started as several."""
    if World.here().size > 1:
        raise UsageError(
            f"torchrun is for training; ismn {command} is the work of one process.",
            "Type it without torchrun. To spread a matrix: ismn run RECIPE --engine ray, or ismn plan RECIPE --slurm.",
        )
