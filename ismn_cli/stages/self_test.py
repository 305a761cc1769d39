"""The self-test of attacks: each is tried on victims that are known to fall, before any defence is scored with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import ATTACKS
from ismn_cli.core.environment import ismn_version
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.specs import AttackSpec, Cell, Norm, Search
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import attack_of

if TYPE_CHECKING:
    from ismn_cli.audit.self_test import Victim

DATASET, CLASSES = "cifar10-mini", 10
IMAGES = 30
WEAK = "median"
"""A control that is known to fall to an attacker who goes through it."""


def self_tests(
    store: Store, cells: Iterable[Cell], on_test: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """Return AT07 for each attack among ``cells``; a failure names its cells. Made once for a kind of attack.

    ``on_test`` is told what is about to be tested.

    The victims are the released classifier, bare and behind a median filter, whatever was attacked: what an attack
    can do is not judged by the system that it is to judge. They are searched in the precision of the cells.
    """
    return [_tested(store, group, on_test) for group in _kinds(cells)]


def untested(store: Store, cells: Iterable[Cell]) -> list[AttackSpec]:
    """Return the attacks among ``cells``, one of a kind, whose self-test is still to be made."""
    kinds = [(_spec_of(group), group[0].search) for group in _kinds(cells)]
    return [spec for spec, search in kinds if store.findings(_key(spec, search)) is None]


def _kinds(cells: Iterable[Cell]) -> list[list[Cell]]:
    kinds: dict[tuple[str, Norm, Search], list[Cell]] = {}
    for cell in cells:
        # What made examples elsewhere cannot be tested here.
        if cell.attack is not None and cell.attack.method in ATTACKS:
            kinds.setdefault((cell.attack.method, cell.attack.threat.norm, cell.search), []).append(cell)
    return list(kinds.values())


def _spec_of(group: Sequence[Cell]) -> AttackSpec:
    """Return the attack at its smallest size: the self-test brings it to a size of its own."""
    return min(map(attack_of, group), key=lambda spec: spec.threat.eps).model_copy(update={"eot": 1})


def _key(spec: AttackSpec, search: Search) -> str:
    return hashlib.sha256(json.dumps(["self-test", ismn_version(), spec.key(), search]).encode()).hexdigest()


def _tested(store: Store, group: Sequence[Cell], on_test: Callable[[str], None]) -> Finding:
    spec, search = _spec_of(group), group[0].search
    key = _key(spec, search)
    found = store.findings(key)
    if found is None:
        on_test(f"self-test of {spec.method}")
        found = (_run(store, spec, search),)
        store.put_findings(key, found)
    (finding,) = found
    keys = tuple(cell.key() for cell in group) if finding.verdict is Verdict.FAIL else ()
    return finding.model_copy(update={"cells": keys})


def _run(store: Store, spec: AttackSpec, search: Search) -> Finding:
    from ismn_cli.audit.self_test import self_test

    try:
        victims = _victims(store, search)
    except UsageError as error:
        says = f"There is no classifier at hand that is known to fall. {error.message}"
        return Finding(code="AT07", verdict=Verdict.NOT_RUN, subject=spec.label(), says=says)
    return self_test(spec, victims, CLASSES, spec.label())


def _victims(store: Store, search: Search) -> Mapping[str, Victim]:
    """Return the victims by name. Raises UsageError where their weights are not at hand.

    Cells that were searched in bf16 elsewhere are tested in float32 where bf16 would be slow.
    """
    import torch

    from ismn_cli.audit.self_test import Victim
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.passes import for_search, search_precision
    from ismn_cli.stages.resolve import resolve

    if search is not Search.FP32:
        search = search_precision(Search.AUTO, torch.device("cpu"))
    images = load_dataset(DataChoice(name=DATASET, limit=IMAGES), "test", None)
    x, y = next(iter(images.batches(IMAGES)))
    bare, weak = (resolve(name, "released", store, images.kind).pipeline for name in ("none", WEAK))
    route, searched = (next(iter(each.surrogates().values())) for each in (weak, for_search(weak, search)))
    return {
        "an undefended classifier": Victim(bare, x, y, searched=for_search(bare, search)),
        "the same classifier behind a median filter": Victim(route, x, y, weak=True, searched=searched),
    }
