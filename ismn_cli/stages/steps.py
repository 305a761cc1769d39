"""Which run each of a matrix's own trainings is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.stages.resolve import needs_base_only


@dataclass(frozen=True)
class Steps:
    """Which run each of a recipe's trainings is, in their order."""

    systems: Mapping[str, str]
    """step -> the system that it trains"""
    runs: Mapping[str, str]
    """step -> its run"""

    def weights_of(self, name: str, otherwise: str) -> str:
        """Return the run that the system called ``name`` is taken from; ``otherwise`` where none trains it."""
        entry = SYSTEMS.get(name)
        if entry is None or needs_base_only(entry):  # a defence of the user's own needs no more either
            return next(iter(self.runs.values()), otherwise)
        fitting = (self.runs[step] for step, system in self.systems.items() if system == entry.trained_as)
        return next(fitting, otherwise)


NO_STEPS = Steps({}, {})
