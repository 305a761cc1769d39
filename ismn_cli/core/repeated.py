"""A result and its repetition: what is the same, what is not, and where they were made. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ismn_cli.core.records import CLOCKS, CellResult, Environment

Sameness = Literal["identical", "outcomes differ", "figures differ"]
NOT_MEASURED = {"schema_version", "cell", "notes", *CLOCKS}
"""Fields that say how long something took, or nothing of what was measured."""


@dataclass(frozen=True)
class Column:
    """A column of a result that came out otherwise."""

    name: str
    entries: int
    """How many of its entries differ."""
    most: float
    """Largest difference; NaN where it is none of numbers."""

    def told(self) -> str:
        """Return it in words."""
        by = "" if math.isnan(self.most) else f" by up to {self.most:.3g}"
        return f"{self.name}: {self.entries:,}{by}"


@dataclass(frozen=True)
class Repeated:
    """One cell, as it was recorded and as it came out again."""

    recorded: CellResult
    again: CellResult

    def moved(self) -> list[int]:
        """Return the ids of the samples whose outcome is another; without attack, whose answer is."""
        pairs = zip(_outcomes(self.recorded), _outcomes(self.again), self.recorded.ids, strict=True)
        return [sample for before, now, sample in pairs if before != now]

    def columns(self) -> tuple[Column, ...]:
        """Return every measured column that differs."""
        before, now = (dict(_columns(result.model_dump())) for result in (self.recorded, self.again))
        return tuple(
            _difference(name, before.get(name), now.get(name))
            for name in dict.fromkeys((*before, *now))
            if not _equal(before.get(name), now.get(name))
        )

    def sameness(self) -> Sameness:
        """Return how the two compare."""
        if self.recorded.ids != self.again.ids or self.moved():
            return "outcomes differ"
        return "figures differ" if self.columns() else "identical"


def environment_differences(recorded: Environment | None, now: Environment) -> list[str]:
    """Return what is otherwise where a result was made again, such as "torch 2.11.0, now 2.12.0"."""
    if recorded is None:
        return ["where it was made is not recorded with a cell; give the record of its run for that"]
    before, here = (_flat(environment) for environment in (recorded, now))
    names = dict.fromkeys((*before, *here))
    pairs = ((name, before.get(name, "absent"), here.get(name, "absent")) for name in names)
    return [f"{name} {then}, now {current}" for name, then, current in pairs if then != current]


def _flat(environment: Environment) -> dict[str, str]:
    plain = environment.model_dump()
    packages = plain.pop("packages")
    return {name: str(value) for name, value in (plain | packages).items()}


def _outcomes(result: CellResult) -> Sequence[object]:
    return result.outcomes() or list(zip(result.clean.predicted, result.clean.rejected, strict=True))


def _columns(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if prefix or name not in NOT_MEASURED:
            if isinstance(value, Mapping):
                yield from _columns(value, f"{prefix}{name}.")
            elif value is not None:
                yield f"{prefix}{name}", value


def _equal(before: Any, now: Any) -> bool:
    if not (isinstance(before, Sequence) and isinstance(now, Sequence)) or len(before) != len(now):
        return bool(before == now)
    return all(map(_same, before, now))


def _same(before: Any, now: Any) -> bool:
    both_nan = isinstance(before, float) and isinstance(now, float) and math.isnan(before) and math.isnan(now)
    return both_nan or bool(before == now)


def _difference(name: str, before: Any, now: Any) -> Column:
    columns = [value if isinstance(value, tuple) else (value,) for value in (before, now)]
    if len(columns[0]) != len(columns[1]):
        return Column(name, max(map(len, columns)), math.nan)
    pairs = [(a, b) for a, b in zip(*columns, strict=True) if not _same(a, b)]
    sizes = [abs(a - b) for a, b in pairs if _number(a) and _number(b)]
    return Column(name, len(pairs), max(sizes, default=math.nan))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
