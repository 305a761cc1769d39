"""The matrices behind a verdict table: what is planned, shared, counted, and continued after a cut."""

from __future__ import annotations

from typing import Any

import pytest

from ismn_cli.core.claim_verdicts import Comparison, Verdict
from ismn_cli.core.claims import Claims
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice, MatrixRecipe
from ismn_cli.core.specs import Knowledge
from ismn_cli.core.store import Store
from ismn_cli.stages.claims import BATCH, ClaimsPlan, Setting, plan_claims, run_claims
from ismn_cli.stages.matrix import MatrixProgress, run_matrix

STEPS = {"steps": 2}
READINGS = [
    {"name": "linf", "means": "eps", "attacks": ["fgsm", {"method": "pgd", "params": STEPS}]},
    {"name": "tanh", "means": "half", "eps": "level/2", "attacks": [{"method": "pgd", "params": STEPS}]},
    {"name": "two", "means": "twice", "attacks": [
        {"name": "short", "method": "pgd", "params": {"steps": 1}}, {"name": "long", "method": "pgd", "params": STEPS},
        "fgsm",
    ]},
    {"name": "noise", "means": "sigma", "eps": 1, "worst_case": False,
     "attacks": [{"method": "gn", "params": {"std": "level"}}]},
]  # fmt: skip
LEVELS = (0.1, 0.2)


def some_claims(**changes: Any) -> Claims:
    rows = [{"system": name, "figures": dict.fromkeys(LEVELS, 0.5)} for name in ("none", "ddsa")]
    fields = {"name": "made", "summary": "made", "cite": "Nobody", "states": "so", "dataset": "cifar10"}
    return Claims.model_validate(fields | {"claims": rows, "readings": READINGS} | changes)


def plan(store: Store, claims: Claims, limit: int = 12, seed: int = 0) -> ClaimsPlan:
    setting = Setting(DataChoice(name="cifar10", limit=limit), seed=seed)
    return plan_claims(claims, claims.readings, setting, store, None, "cpu")


@pytest.fixture
def two(trained: Any) -> None:
    base = trained("classifier").run.record.id
    trained("ddsa", classifier=base)


def figures(found: list[Comparison]) -> list[tuple[Any, ...]]:
    trials = [(c.trial.reading.name, c.trial.attack.label, c.trial.claim) for c in found]
    return [(*trial, c.measured, c.verdict, c.ceiling) for trial, c in zip(trials, found, strict=True)]


@pytest.mark.usefixtures("two")
def test_a_method_has_one_set_of_parameters_in_each_matrix(store: Store) -> None:
    parts = [part for part, _ in plan(store, some_claims()).parts]
    made = {(p.reading.name, tuple(a.label for a in p.attacks), p.levels, p.recipe.attack.eps) for p in parts}
    assert made == {
        ("linf", ("fgsm", "pgd"), LEVELS, (0.1, 0.2)),
        ("tanh", ("pgd",), LEVELS, (0.05, 0.1)),
        ("two", ("short", "fgsm"), LEVELS, (0.1, 0.2)),
        ("two", ("long",), LEVELS, (0.1, 0.2)),
        ("noise", ("gn",), (0.1,), (1.0,)),
        ("noise", ("gn",), (0.2,), (1.0,)),
    }
    assert all(part.recipe.defence == ("none", "ddsa") for part in parts)


@pytest.mark.usefixtures("two")
def test_progress_counts_every_image_once_and_a_cut_run_continues(store: Store) -> None:
    seen: list[MatrixProgress] = []

    def cut(progress: MatrixProgress) -> None:
        seen.append(progress)
        if progress.stage == "matrix" and progress.done >= progress.total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_claims(plan(store, some_claims()), store, cut)
    whole = next(p.total for p in seen if p.stage == "matrix")
    # Two clean cells; fgsm, pgd and noise at two levels each, pgd also at 0.05, and with one step at two levels.
    assert whole == 12 * (2 + 2 + 2 + 2 + 1 + 2)
    left, seen[:] = whole - seen[-1].done + 12, []  # the cell that was cut is judged again
    continued = run_claims(plan(store, some_claims()), store, seen.append)
    steps = [p for p in seen if p.stage == "matrix"]
    assert {p.total for p in steps} == {left} and left < whole
    assert [p.done for p in steps] == sorted(p.done for p in steps) and steps[-1].done == left
    seen.clear()
    assert figures(run_claims(plan(store, some_claims()), store, seen.append)) == figures(continued)
    assert not [p for p in seen if p.stage == "matrix"]


@pytest.mark.usefixtures("two")
def test_cells_are_those_of_an_ordinary_run(store: Store) -> None:
    recipe = MatrixRecipe.model_validate(
        {"name": "ordinary", "dataset": {"name": "cifar10", "limit": 12}, "defence": ["none", "ddsa"],
         "attack": {"method": ["fgsm", "pgd"], "eps": [0.1, 0.2], "params": {"pgd": STEPS}}, "batch_size": BATCH}
    )  # fmt: skip
    ordinary = run_matrix(recipe, store, None, "cpu", "run", lambda _: None)
    cells = {result.cell.key() for result in ordinary.results}
    seen: list[MatrixProgress] = []
    found = run_claims(plan(store, some_claims(readings=READINGS[:1])), store, seen.append)
    assert not [p for p in seen if p.stage == "matrix"]
    assert {c.cell.cell.key() for c in found if c.cell} <= cells


@pytest.mark.usefixtures("two")
def test_the_undefended_classifier_is_run_for_restorations_that_do_not_name_it(store: Store) -> None:
    rows = [{"system": "ddsa", "figures": {0.1: 0.5}}]
    claims = some_claims(claims=rows, metrics="restoration", readings=READINGS[:1])
    found = run_claims(plan(store, claims), store, lambda _: None)
    assert {c.trial.claim.system for c in found} == {"ddsa"} and all(c.measured for c in found)


@pytest.mark.usefixtures("two")
def test_other_levels_of_knowledge_are_run_as_such(store: Store) -> None:
    for knowledge in (Knowledge.WHITE, Knowledge.ADAPTIVE):
        claims = some_claims(knowledge=knowledge, readings=READINGS[1:2])
        found = run_claims(plan(store, claims, limit=3), store, lambda _: None)
        assert {c.cell.cell.knowledge for c in found if c.cell} == {knowledge} and len(found) == 4


@pytest.mark.usefixtures("two")
def test_transfer_needs_its_sources_in_every_reading(store: Store, trained: Any) -> None:
    readings = [{"name": "plain", "means": "", "attacks": ["square"]}, READINGS[1]]
    with pytest.raises(UsageError, match="no weights for at"):
        plan(store, some_claims(knowledge="black", readings=readings))


@pytest.mark.usefixtures("two")
def test_readings_without_the_attack_that_is_named_are_refused(store: Store) -> None:
    rows = [{"system": "none", "attack": "gn", "figures": {0.1: 0.5}}]
    claims = some_claims(claims=rows)
    setting = Setting(DataChoice(name="cifar10", limit=3))
    with pytest.raises(UsageError, match="names attacks that 'linf' does not have"):
        plan_claims(claims, claims.readings[:1], setting, store, None, "cpu")
    found = run_claims(plan(store, claims, limit=3), store, lambda _: None)
    assert [c.trial.reading.name for c in found] == ["noise"] and found[0].verdict is not Verdict.NOT_TESTED


@pytest.mark.usefixtures("two")
def test_a_reading_is_tried_at_the_levels_of_its_own_attacks(store: Store) -> None:
    rows = [
        {"system": "none", "attack": "fgsm", "figures": {0.1: 0.5}},
        {"system": "none", "attack": "long", "figures": {0.2: 0.5, 0.3: 0.4}},
    ]
    parts = [part for part, _ in plan(store, some_claims(claims=rows)).parts]
    made = [(p.reading.name, tuple(a.label for a in p.attacks), p.levels) for p in parts]
    assert made == [("linf", ("fgsm",), (0.1,)), ("two", ("long", "fgsm"), (0.1, 0.2, 0.3))]
