"""Which cells and worst cases of two systems correspond, image by image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.paired import Paired, check_same, paired
from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Cell, Samples
from ismn_cli.core.worst_case import Met, met, trials
from ismn_cli.reporting.sections import defence_labels
from ismn_cli.reporting.table import Value, attack_columns, identity
from ismn_cli.reporting.worst_rows import ALL, level_cases, threat_columns


@dataclass(frozen=True)
class Trial:
    """What one system did on N images, clean or under an attack, and what that is called."""

    cell: Cell
    columns: dict[str, Value]
    """Knowledge, attack and settings, by the columns of the table."""
    right: tuple[bool, ...]

    @property
    def samples(self) -> Samples:
        """The images."""
        return self.cell.samples

    def key(self) -> str:
        """Return what the trials of two systems have in common; draws and EOT follow the system."""
        same = {name: value for name, value in self.columns.items() if name not in ("eot", "attacks")}
        return json.dumps(same, sort_keys=True)


@dataclass(frozen=True)
class Pair:
    """The same trial of two systems on the same images."""

    first: Trial
    second: Trial

    def counts(self) -> Paired:
        """Return on how many images both, one or none is right."""
        return paired(self.first.right, self.second.right)


@dataclass(frozen=True)
class _Kept:
    """What is kept of a cell once it has passed."""

    cell: Cell
    right: tuple[bool, ...]
    met: Met | None


def pairs(results: Iterable[CellResult], first: str, second: str) -> list[Pair]:
    """Return what the systems called ``first`` and ``second`` have in common, worst cases first.

    Each result is looked at once and let go.
    Raises UsageError: a name that is unknown or stands for several systems, nothing in common, other images.
    """
    distinct = {r.cell.key(): _Kept(r.cell, tuple(answered_right(r)), met(r)) for r in results}
    passed = list(distinct.values())
    mine, theirs = (_by_key(_trials(_of(passed, name))) for name in (first, second))
    common = [key for key in mine if key in theirs]
    if not common:
        raise UsageError(
            f"'{first}' and '{second}' have no cell in common.",
            f"Attack both in the same way: ismn attack --defence {first},{second}",
        )
    found = [pair for key in common for pair in _matched(mine[key], theirs[key])]
    if not found:
        check_same(mine[common[0]][0].samples, theirs[common[0]][0].samples)
        raise UsageError(
            f"'{first}' and '{second}' stand on several base classifiers, and never on the same one.",
            "Choose runs with --run.",
        )
    return found


def _of(results: Sequence[_Kept], name: str) -> list[_Kept]:
    """Return the cells of the system with this name, or with this label where one name stands for several."""
    labels = defence_labels([identity(result.cell) for result in results])
    labelled = list(zip(labels, results, strict=True))
    exact = [result for label, result in labelled if label == name]
    several = sorted({label for label, result in labelled if result.cell.defence.name == name})
    if several and not exact:
        raise UsageError(
            f"There are several systems called '{name}', with other weights.",
            f"Write one of: {', '.join(several)}; or choose runs with --run.",
        )
    if not exact:
        raise unknown_name("defence in the stored results", name, list(dict.fromkeys(labels)))
    return exact


def _by_key(found: Sequence[Trial]) -> dict[str, list[Trial]]:
    by_key: dict[str, list[Trial]] = {}
    for trial in found:
        by_key.setdefault(trial.key(), []).append(trial)
    return by_key


def _matched(mine: Sequence[Trial], theirs: Sequence[Trial]) -> Iterator[Pair]:
    """Yield the pairs on the same images, and where there is a choice around the same classifier."""
    for trial in mine:
        others = [other for other in theirs if other.samples == trial.samples]
        rivals = [own for own in mine if own.samples == trial.samples]
        near = [other for other in others if other.cell.classifier == trial.cell.classifier]
        for other in near or (others if len(others) == len(rivals) == 1 else []):
            yield Pair(trial, other)


def _trials(results: Sequence[_Kept]) -> list[Trial]:
    cells = [Trial(kept.cell, attack_columns(kept.cell), kept.right) for kept in results]
    return [*_worst_cases([kept.met for kept in results if kept.met]), *cells]


def _worst_cases(attacked: Sequence[Met]) -> Iterator[Trial]:
    """Yield worst cases over all levels, then those of one level; a single attack's is that attack."""
    found = [(case.level, case.worst) for system in trials(attacked) for case in level_cases(system)]
    for level, worst in sorted(found, key=lambda case: case[0] != ALL):
        if worst.here > 1:
            cell = worst.cells[0].cell
            columns = {"knowledge": level, **threat_columns(cell), "attacks": worst.here}
            yield Trial(cell, columns, tuple(outcome is Outcome.SURVIVED for outcome in worst.outcomes()))
