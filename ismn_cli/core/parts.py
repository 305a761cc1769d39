"""Parts of a result: a cell on some of its batches, cut out of a whole one or put together to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ismn_cli.core.notes import merged
from ismn_cli.core.records import Answers, CellResult, Draws

_COLUMNS = ("ids", "labels", "failed", "linf", "l2", "via")
_SUMS = ("forwards", "backwards", "queries", "carried", "craft_seconds", "judge_seconds")


class Span(NamedTuple):
    """Batches of a matrix, from ``first`` up to but without ``last``."""

    first: int
    last: int

    def indices(self) -> range:
        """Return the batches' numbers."""
        return range(self.first, self.last)


def shard_span(batches: int, shard: int, shards: int) -> Span:
    """Return the batches of shard ``shard`` of 1..``shards``; none where there are more shards than batches."""
    return Span(batches * (shard - 1) // shards, batches * shard // shards)


def rows_of(result: CellResult, rows: slice) -> CellResult:
    """Return ``result`` on some of its samples; what was counted over all of them is left at zero."""
    changes: dict[str, Any] = {name: getattr(result, name)[rows] for name in _COLUMNS}
    changes |= {name: type(getattr(result, name))() for name in _SUMS}
    for name in ("clean", "attacked"):
        answers = getattr(result, name)
        columns = {column: values[rows] for column, values in answers or ()}
        changes[name] = answers and Answers.model_construct(None, **columns)
    for name in ("draws_clean", "draws_attacked"):
        draws = getattr(result, name)
        changes[name] = draws and Draws(k=draws.k, right=draws.right[rows], majority_right=draws.majority_right[rows])
    return result.model_copy(update=changes)


def joined(parts: Sequence[CellResult]) -> CellResult:
    """Return the result of one cell on the samples of all ``parts``, at least one, in their order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    changes: dict[str, Any] = {name: _chained(parts, name) for name in _COLUMNS}
    changes |= {name: sum(getattr(part, name) for part in parts) for name in _SUMS}
    changes["clean"] = _answers([part.clean for part in parts])
    changes["attacked"] = first.attacked and _answers([part.attacked for part in parts if part.attacked])
    for name in ("draws_clean", "draws_attacked"):
        changes[name] = _draws([getattr(part, name) for part in parts])
    changes["notes"] = merged(note for part in parts for note in part.notes)
    return first.model_copy(update=changes)


def _answers(parts: Sequence[Answers]) -> Answers:
    return Answers.model_construct(None, **{name: _chained(parts, name) for name in Answers.model_fields})


def _draws(parts: Sequence[Draws | None]) -> Draws | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return Draws(k=known[0].k, right=_chained(known, "right"), majority_right=_chained(known, "majority_right"))


def _chained(parts: Sequence[Any], name: str) -> tuple[Any, ...]:
    return tuple(value for part in parts for value in getattr(part, name))
