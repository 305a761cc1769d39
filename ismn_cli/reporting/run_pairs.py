"""Which cells of two runs correspond, image by image, and what flipped between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from ismn_cli.core.errors import UsageError
from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.worst_case import trials
from ismn_cli.reporting.pairs import Pair, Trial
from ismn_cli.reporting.sections import brief
from ismn_cli.reporting.table import attack_columns
from ismn_cli.reporting.worst_rows import ALL, LevelCase, level_cases, threat_columns

UNDEFENDED = "none"
Matched = tuple[CellResult, CellResult]


@dataclass(frozen=True)
class RunPair:
    """The same trial in two runs on the same images, and what became of each image in both."""

    pair: Pair
    ids: tuple[int, ...]
    before: tuple[str, ...]
    """Outcome of each image in the first run; "right" or "wrong" without attack."""
    after: tuple[str, ...]
    settings: tuple[str, ...] = ()
    """What differs in how the attack was run: seed, batch size, parameters."""
    same_cell: bool = False
    """Whether both runs hold the very same stored result."""

    def only_first(self) -> list[int]:
        """Return the ids of the images that are right in the first run alone, as they were evaluated."""
        return self._right((True, False))

    def only_second(self) -> list[int]:
        """Return the ids of the images that are right in the second run alone."""
        return self._right((False, True))

    def transitions(self) -> dict[str, int]:
        """Return how many images went from which outcome to which other one, the most first."""
        moved = Counter(f"{a} > {b}" for a, b in zip(self.before, self.after, strict=True) if a != b)
        return dict(sorted(moved.items(), key=lambda entry: (-entry[1], entry[0])))

    def _right(self, wanted: tuple[bool, bool]) -> list[int]:
        both = zip(self.pair.first.right, self.pair.second.right, strict=True)
        return [sample for sample, right in zip(self.ids, both, strict=True) if right == wanted]


@dataclass(frozen=True)
class Compared:
    """What two runs have in common, worst cases first in each system, and what only one of them has."""

    pairs: tuple[RunPair, ...] = ()
    alone: tuple[tuple[CellResult, ...], tuple[CellResult, ...]] = field(default=((), ()))

    @property
    def attacked(self) -> bool:
        """Whether any attacked cell has its like."""
        return any(found.pair.first.cell.attack is not None for found in self.pairs)


def run_pairs(first: Sequence[CellResult], second: Sequence[CellResult]) -> Compared:
    """Match the cells of two runs: systems by name (see `matched_systems`), images, knowledge, attack and threat model.

    Cells that agree in every setting are matched before those that differ in seed, batch size or parameters, which
    are matched where there is one on each side. Worst cases are over the matched attacks alone, so that both sides
    met the same ones. Raises UsageError where stored columns contradict each other.
    """
    found: list[RunPair] = []
    used: set[str] = set()
    for mine, theirs in matched_systems(first, second):
        cells = _matched(mine, theirs)
        found += [*_worst_cases(cells), *map(_of_cells, cells)]
        used |= {f"{side}{result.cell.key()}" for pair in cells for side, result in enumerate(pair)}
    alone = [tuple(r for r in run if f"{side}{r.cell.key()}" not in used) for side, run in enumerate((first, second))]
    return Compared(tuple(found), (alone[0], alone[1]))


def matched_systems(
    first: Sequence[CellResult], second: Sequence[CellResult]
) -> Iterator[tuple[list[CellResult], list[CellResult]]]:
    """Yield the cells of each system that both runs have, by name.

    Where both runs have exactly one system, or one defended one, and under other names, those are matched too.
    """
    mine, theirs = _by_system(first), _by_system(second)
    for name in mine:
        if name in theirs:
            yield mine[name], theirs[name]
    one, other = _only(mine, theirs), _only(theirs, mine)
    if one is not None and other is not None:
        yield mine[one], theirs[other]


def _only(systems: Collection[str], others: Collection[str]) -> str | None:
    """Return a run's only system, or its only defended one, where ``others`` lack it."""
    defended = [name for name in systems if name != UNDEFENDED] if len(systems) > 1 else list(systems)
    return defended[0] if len(defended) == 1 and defended[0] not in others else None


def _by_system(results: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    systems: dict[str, list[CellResult]] = {}
    for result in results:
        systems.setdefault(result.cell.defence.name, []).append(result)
    return systems


def _matched(mine: Sequence[CellResult], theirs: Sequence[CellResult]) -> list[Matched]:
    """Return the cells that correspond, in the order of ``mine``."""
    exact = _one_to_one(mine, theirs, _settings_key)
    used = {id(result) for pair in exact for result in pair}
    left = [[result for result in side if id(result) not in used] for side in (mine, theirs)]
    found = {id(pair[0]): pair for pair in (*exact, *_one_to_one(left[0], left[1], _threat_key))}
    return [found[id(result)] for result in mine if id(result) in found]


def _one_to_one(
    mine: Sequence[CellResult], theirs: Sequence[CellResult], key: Callable[[CellResult], Hashable]
) -> list[Matched]:
    """Return the pairs of one key where each side has one; several of one name, with other weights, are no pair."""
    sides: list[dict[Hashable, list[CellResult]]] = [{}, {}]
    for groups, results in zip(sides, (mine, theirs), strict=True):
        for result in results:
            groups.setdefault(key(result), []).append(result)
    return [
        (group[0], sides[1][where][0])
        for where, group in sides[0].items()
        if len(group) == 1 and len(sides[1].get(where, ())) == 1
    ]


def _settings_key(result: CellResult) -> Hashable:
    return result.cell.samples, Trial(result.cell, attack_columns(result.cell), ()).key()


def _threat_key(result: CellResult) -> Hashable:
    attack = result.cell.attack
    what = (attack.method, attack.threat) if attack else None
    return result.cell.samples, result.cell.knowledge, what


def _of_cells(matched: Matched) -> RunPair:
    first, second = matched
    _check(first, second)
    sides = [Trial(r.cell, attack_columns(r.cell), tuple(answered_right(r))) for r in matched]
    return RunPair(
        Pair(sides[0], sides[1]),
        first.ids,
        _outcomes(first),
        _outcomes(second),
        tuple(_settings(sides[0], sides[1])),
        first.cell.key() == second.cell.key(),
    )


def _check(first: CellResult, second: CellResult) -> None:
    if (first.ids, first.labels) != (second.ids, second.labels):
        raise UsageError(
            f"Two stored cells name the same images and hold other ids or labels: {first.cell.key()[:8]} and "
            f"{second.cell.key()[:8]}.",
            "One of them was changed by hand: repeat its run in another store.",
        )


def _outcomes(result: CellResult) -> tuple[str, ...]:
    if result.attacked is not None:
        return tuple(str(outcome) for outcome in result.outcomes())
    return tuple("right" if right else "wrong" for right in answered_right(result))


def _settings(first: Trial, second: Trial) -> Iterator[str]:
    """Yield what differs in how two trials of one threat model were run: "steps 10 and 40"."""
    mine, theirs = ({**t.columns, **json.loads(str(t.columns.get("params", "{}")))} for t in (first, second))
    for name in dict.fromkeys((*mine, *theirs)):
        if name != "params" and mine.get(name) != theirs.get(name):
            yield f"{name} {_told(mine.get(name))} and {_told(theirs.get(name))}"


def _told(value: object) -> str:
    return "none" if value is None else str(brief(value))


def _worst_cases(cells: Sequence[Matched]) -> Iterator[RunPair]:
    mine, theirs = (_cases([pair[side] for pair in cells]) for side in (0, 1))
    for key in sorted(mine, key=lambda key: key[0] != ALL):
        if key in theirs and mine[key].worst.here > 1:
            yield _of_cases(mine[key], theirs[key])


def _cases(results: Sequence[CellResult]) -> dict[tuple[str, Hashable], LevelCase]:
    """Return the worst cases of one system by level, images, norm and size."""
    found = [case for system in trials(results) for case in level_cases(system)]
    return {(case.level, _place(case)): case for case in found}


def _place(case: LevelCase) -> Hashable:
    cell = case.worst.cells[0].cell
    return cell.samples, *threat_columns(cell).values()


def _of_cases(first: LevelCase, second: LevelCase) -> RunPair:
    return RunPair(
        Pair(_trial(first), _trial(second)),
        first.worst.cells[0].ids,
        tuple(map(str, first.worst.outcomes())),
        tuple(map(str, second.worst.outcomes())),
        same_cell=[r.cell for r in first.worst.cells] == [r.cell for r in second.worst.cells],
    )


def _trial(case: LevelCase) -> Trial:
    worst = case.worst
    columns = {"knowledge": case.level, **threat_columns(worst.cells[0].cell), "attacks": worst.here}
    right = tuple(outcome is Outcome.SURVIVED for outcome in worst.outcomes())
    return Trial(worst.cells[0].cell, columns, right)
