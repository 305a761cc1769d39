"""What is handed out: everything once, nothing before what it needs, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.core.effort import passes
from ismn_cli.core.parts import Span
from ismn_cli.core.specs import AttackSpec, ThreatModel
from ismn_cli.stages import dispatch
from ismn_cli.stages.dispatch import DEATHS, LOSSES, Dispatch, Unit
from ismn_cli.stages.ledger import Ledger
from ismn_cli.stages.tasks import Task

SYSTEMS = ("a", "b", "c")


class _Task:
    """A task as far as its order goes."""

    def __init__(self, keys: Sequence[str], method: str = "", clean: Sequence[str] = (), previous: str = "") -> None:
        self._keys, self.clean, self.previous = tuple(keys), tuple(clean), previous
        spec = AttackSpec(method=method, threat=ThreatModel(eps=0.1))
        self.job = SimpleNamespace(attack=spec, knowledge="white", passes=passes(spec)) if method else None
        self.passes = partial(Task.passes, SimpleNamespace(cells=self._keys, job=self.job))

    def keys(self) -> tuple[str, ...]:
        return self._keys

    def needs(self) -> tuple[str, ...]:
        return (*self.clean, *([self.previous] if self.previous else []))


class _Ledger:
    """Which cells' results are there."""

    def __init__(self, batches: int) -> None:
        self.span, self.there = Span(0, batches), set[tuple[str, int]]()

    def has(self, key: str, index: int) -> bool:
        return (key, index) in self.there


def _tasks() -> list[Task]:
    """Return systems without attack, a gray attack on all, and a chain of two on each."""
    clean = [_Task([name]) for name in SYSTEMS]
    gray = _Task([f"{name} gray" for name in SYSTEMS], "pgd", SYSTEMS)
    chains = []
    for name in SYSTEMS:
        chains += [
            _Task([f"{name} first"], "fgsm", [name]),
            _Task([f"{name} then"], "apgd", [name], f"{name} first"),
        ]
    return cast("list[Task]", [*clean, gray, *chains])


def _result(key: str) -> Any:
    return SimpleNamespace(cell=SimpleNamespace(key=lambda: key))


class _House:
    """Carries out what is handed out, in an order and with accidents that ``draw`` chooses."""

    def __init__(self, batches: int, workers: int) -> None:
        self.tasks, self.ledger, self.workers = _tasks(), _Ledger(batches), workers
        self.dispatch = Dispatch(self.tasks, cast("Ledger", self.ledger))
        self.flying: list[Unit] = []
        self.alone: list[Unit] = []
        self.kills: dict[tuple[str, int], int] = {}

    def fill(self) -> None:
        while len(self.flying) < 2 * self.workers and (unit := self.dispatch.next(self.workers)):
            for index in unit.span.indices():
                for need in self.dispatch.needs(unit.task, unit.keys):
                    assert self.ledger.has(need, index)
                assert not any(self.ledger.has(key, index) for key in unit.keys)
            self.flying.append(unit)
            if unit.deaths == DEATHS - 1:
                self.alone.append(unit)
        assert not any(unit in self.flying for unit in self.alone) or len(self.flying) == 1

    def take(self, unit: Unit, settled: Any) -> None:
        for done in settled:
            keys = [result.cell.key() for result in done.results]
            for key in keys:
                assert not self.ledger.has(key, done.index)
                self.ledger.there.add((key, done.index))
            self.dispatch.release(done.task, done.index)

    def finish(self, unit: Unit, seconds: float) -> None:
        batches = [[_result(key) for key in unit.keys] for _ in unit.span.indices()]
        self.take(unit, self.dispatch.done(unit, batches, seconds))

    def give_up(self, unit: Unit) -> None:
        assert len(unit.keys) == len(unit.span.indices()) == 1
        if self.tasks[unit.task].job is None:
            self.take(unit, self.dispatch.drop(unit.keys[0]))
        else:
            self.take(unit, self.dispatch.put(unit, [[_result(unit.keys[0])]]))

    def missing(self) -> set[tuple[str, int]]:
        keys = [key for task in self.tasks for key in cast("_Task", task)._keys]
        every = {(key, index) for key in keys for index in self.ledger.span.indices()}
        return every - self.ledger.there


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(1, 4))
def test_all_is_done_once_whatever_happens(data: st.DataObject, batches: int, workers: int) -> None:
    house = _House(batches, workers)
    every = sorted(house.missing())
    poisoned = set(data.draw(st.lists(st.sampled_from(every), max_size=4))) if every else set()
    accidents = data.draw(st.integers(0, 5))
    house.fill()
    given_up = set()
    while house.flying:
        unit = house.flying.pop(data.draw(st.integers(0, len(house.flying) - 1)))
        touched = {(key, index) for key in unit.keys for index in unit.span.indices()} & poisoned
        if touched:
            if house.dispatch.died(unit):
                given_up |= touched
                house.give_up(unit)
        elif accidents and data.draw(st.booleans()):
            accidents -= 1
            assert not house.dispatch.lost(unit)
        else:
            house.finish(unit, data.draw(st.sampled_from([0.001, 0.2, 3.0])))
        house.fill()
    systems = {key for key, _ in given_up if key in SYSTEMS}
    assert all(key.split()[0] in systems for key, _ in house.missing())
    assert given_up <= poisoned


def test_what_dies_with_others_is_found_by_itself() -> None:
    house = _House(4, 1)
    house.fill()
    gray = Unit(3, tuple(f"{name} gray" for name in SYSTEMS), Span(0, 4))
    house.dispatch.out += 1
    assert not house.dispatch.died(gray)
    assert [unit.span for unit in house.dispatch._again] == [Span(i, i + 1) for i in range(4)]
    assert {unit.deaths for unit in house.dispatch._again} == {0}
    house.dispatch._again.clear()
    one = Unit(3, gray.keys, Span(2, 3), deaths=DEATHS - 2)
    house.dispatch.out += 1
    assert not house.dispatch.died(one)
    assert [unit.keys for unit in house.dispatch._again] == [(key,) for key in gray.keys]


def test_machines_that_are_lost_are_not_held_against_a_unit_for_long() -> None:
    house = _House(1, 1)
    losses = 0
    while unit := house.dispatch.next(1):
        if unit.task != 0:
            house.finish(unit, 1.0)
            continue
        losses += 1
        if house.dispatch.lost(unit):
            break
    assert losses == LOSSES - 1 + DEATHS


@pytest.mark.parametrize(("seconds", "length"), [(10.0, 1), (0.25, 2), (0.0001, 16)])
def test_quick_batches_go_together(seconds: float, length: int) -> None:
    """As many as fill `TARGET`, and no more than leaves something for every worker."""
    assert dispatch.TARGET == 0.5
    house = _House(65, 2)
    first = house.dispatch.next(2)
    assert first is not None and first.span == Span(0, 1)
    house.finish(first, seconds)
    following = house.dispatch.next(2)
    assert following is not None and len(following.span.indices()) == length


def test_the_longest_way_goes_first() -> None:
    house = _House(3, 1)
    order = []
    while unit := house.dispatch.next(1):
        order.append(house.tasks[unit.task].keys()[0])
        house.finish(unit, 1.0)
    assert order.index("a then") < order.index("a gray") < len(order) - 1
    assert not house.missing()
