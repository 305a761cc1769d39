"""All that is wrong with a data set, in one error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ismn_cli.core.errors import UsageError

SHOWN = 20


class DataError(UsageError):
    """The data are not what they should be; ``problems`` has a line for each thing that is wrong."""

    def __init__(self, message: str, hint: str, problems: Sequence[str]) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)


class NoSplitError(UsageError):
    """A data set is sound and has not the split that was asked for."""


def refusal(where: str, problems: Sequence[str], hint: str = "") -> DataError:
    """Return one error for every problem of the data in ``where``; the first twenty are listed."""
    if len(problems) == 1:
        return DataError(f"{where}: {problems[0]}.", hint, problems)
    more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
    lines = "".join(f"\n  {line}" for line in [*problems[:SHOWN], *more])
    return DataError(f"{where} has {len(problems):,} problems:{lines}", hint, problems)


def no_split(name: str, split: str, known: Iterable[str]) -> NoSplitError:
    """Return the error for a split that a user's own data do not have, or that nothing has."""
    return NoSplitError(f"{name} has no split '{split}'.", f"It has {', '.join(known)}.")
