"""What a matrix is said to take against what it then takes: passes and bytes, which no clock blurs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ismn_cli.core.recipe_files import validate
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import Outcome
from ismn_cli.core.store import Store
from ismn_cli.stages.forecast import forecast
from ismn_cli.stages.matrix import Finished, run_plan
from ismn_cli.stages.plan import Matrix, plan_matrix
from ismn_cli.stages.train import Trained


def planned(store: Store, **parts: object) -> Matrix:
    mapping = {"task": "matrix", "name": "mine", "dataset": {"limit": 24}}
    recipe = validate(mapping | parts, [])
    assert isinstance(recipe, MatrixRecipe)
    return plan_matrix(recipe, store, None, "cpu")


@pytest.fixture(autouse=True)
def systems(trained: Callable[..., Trained]) -> None:
    """Train what the matrices are of."""
    trained("classifier", config={"epochs": 4})
    trained("magnet", config={"epochs": 1})


def run(matrix: Matrix, store: Store) -> Finished:
    return run_plan(matrix, store, "run", lambda _: None)


WHITE = {
    "defence": ["none", "magnet"],
    "knowledge": ["gray", "white"],
    "attack": {"method": ["fgsm", "pgd"], "eps": [0.02, 0.1]},
}


def test_passes_are_those_that_are_made(store: Store) -> None:
    matrix = planned(store, **WHITE)
    expected = {
        (charge.attack, charge.knowledge, name): (charge.forwards, charge.backwards)
        for charge in forecast(matrix, store).charges
        for name in charge.systems
        if charge.attack
    }
    attacked = [result for result in run(matrix, store).results if result.cell.attack]
    assert len(attacked) == len(expected) == 16
    for result in attacked:
        assert result.cell.attack
        forwards, backwards = expected[result.cell.attack.label(), str(result.cell.knowledge), result.cell.defence.name]
        assert (result.forwards, result.backwards) == (24 * forwards, 24 * backwards)


def test_progress_expects_about_the_passes_that_are_counted(store: Store) -> None:
    """The table in core/effort.py, of ten classes, and what views and detectors make of it, against a count."""
    attack = {"method": ["pgd"], "method_at": {"adaptive": ["pgd-ensemble"]}, "eps": 0.02}
    matrix = planned(store, defence=["none", "magnet"], knowledge=["gray", "adaptive"], attack=attack)
    charges = [charge for charge in forecast(matrix, store).charges if charge.attack]
    jobs = matrix.jobs()
    assert len(charges) == len(jobs) == 3
    for job, charge in zip(jobs, charges, strict=True):
        assert charge.attack == job.attack.label() and str(job.knowledge) == charge.knowledge
        assert job.passes == pytest.approx(charge.forwards + charge.backwards, rel=0.2)


def test_nothing_is_stored_and_what_is_stored_costs_nothing(store: Store) -> None:
    matrix = planned(store, **WHITE)
    before = {path for path in store.root.rglob("*") if path.is_file()}
    found = forecast(matrix, store)
    assert {path for path in store.root.rglob("*") if path.is_file()} == before
    assert found.seconds() > found.fixed_seconds > 0
    run(matrix, store)
    after = forecast(matrix, store)
    assert after.charges == () and after.fixed_seconds == 0 and after.seconds() == 0


def test_the_disk_is_what_is_written(store: Store) -> None:
    matrix = planned(store, **WHITE)
    found = forecast(matrix, store)
    cells = {result.cell.key() for result in run(matrix, store).results}
    kept = [p for p in store.root.rglob("*") if p.is_file() and ("examples" in p.parts or p.stem in cells)]
    written = sum(path.stat().st_size for path in kept)
    assert len(kept) > len(cells)
    assert 0.4 * written < found.bytes() < 2.5 * written


def test_survivors_of_cheap_attacks_are_what_dear_ones_are_charged_for(store: Store) -> None:
    attack = {"method": ["pgd-ensemble", "pgd"], "eps": [0.3]}
    chain = planned(store, defence=["none"], knowledge=["white"], attack=attack, survivors=True)
    found = forecast(chain, store)
    assert found.order == ("pgd 0.3", "pgd-ensemble 0.3")
    first, second = (charge for charge in found.charges if charge.attack)
    cells = {r.cell.attack.method: r for r in run(chain, store).results if r.cell.attack}
    assert first.piloted and first.share * 24 == 24 - cells["pgd"].carried
    assert second.share * 24 == pytest.approx(24 - cells["pgd-ensemble"].carried)
    assert cells["pgd-ensemble"].cell.after == (cells["pgd"].cell.attack,)


def test_cheap_attacks_first_change_no_verdict(store: Store) -> None:
    attack = {"method": ["square", "fgsm", "pgd"], "eps": [0.05], "params": {"square": {"n_queries": 30}}}
    recipe = {"defence": ["none"], "knowledge": ["white"], "attack": attack}
    chain = [r for r in run(planned(store, **recipe, survivors=True), store).results if r.cell.attack]
    last = max(chain, key=lambda result: len(result.cell.after))
    assert [spec.method for spec in last.cell.after] == ["fgsm", "pgd"]
    alone = [r.outcomes() for r in run(planned(store, **recipe), store).results if r.cell.attack]
    assert len(alone) == 3
    for found, each in zip(last.outcomes(), zip(*alone, strict=True), strict=True):
        assert (found is Outcome.BROKEN) == (Outcome.BROKEN in each)
