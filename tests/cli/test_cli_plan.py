"""`ismn run RECIPE --plan` prints what the recipe would do, and does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ismn_cli.core.store import Store

pytestmark = pytest.mark.usefixtures("small")

MATRIX = """
task: matrix
name: mine
dataset: {limit: 12}
training:
  base: {system: classifier, epochs: 1}
  own: {system: ismn, classifier: base, epochs: 1}
defence: [none, ismn]
knowledge: [gray, adaptive]
attack: {method: fgsm, eps: [0.1]}
batch_size: 6
"""


def test_a_matrix_is_planned_and_nothing_is_done(ismn, store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(MATRIX)
    planned = ismn("run", str(recipe), "--plan")
    assert planned.code == 0, planned.err
    assert planned.out.startswith("mine: 2 trainings to be done; 6 cells to compute, 0 stored. 12 test images")
    for text in ("Trainings", "cleaning 1", "trained first, in step own"):
        assert text in planned.out
    for step in ("training, base", "training, cleaning", "attack, gray", "attack, adaptive"):
        assert step in planned.out
    assert "Nothing was computed" in planned.err
    assert store.runs() == []
    done = ismn("run", str(recipe))
    assert done.code == 0, done.err
    again = ismn("run", str(recipe), "--plan")
    assert "0 trainings to be done; 0 cells to compute, 6 stored" in again.out
    assert again.out.count("to be done") == 1


def test_a_plan_is_refused_as_the_run_would_be(ismn, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(MATRIX.replace("fgsm", "fgms"))
    planned, done = ismn("run", str(recipe), "--plan"), ismn("run", str(recipe))
    assert planned.code == done.code == 2
    assert planned.err == done.err


def test_overrides_and_limits_count(ismn, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(MATRIX)
    planned = ismn("run", str(recipe), "attack.eps=[0.1,0.2]", "--limit", "9", "--plan")
    assert planned.code == 0, planned.err
    assert "9 test images" in planned.out and "10 cells to compute" in planned.out


def test_a_plan_is_timed_and_a_budget_buys_images(ismn, store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    start, end = MATRIX.index("training:"), MATRIX.index("defence:")
    recipe.write_text(f"{MATRIX[:start]}{MATRIX[end:]}".replace("[none, ismn]", "none"))
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    trained = len(store.runs())
    planned = ismn("plan", str(recipe))
    assert planned.code == 0, planned.err
    for text in ("Memory of a step", "Time and disk", "fgsm 0.1", "self-tests", "all"):
        assert text in planned.out
    assert f"next: ismn run {recipe} --limit 12" in planned.err and "95 % Wilson interval" in planned.err
    rich = ismn("plan", str(recipe), "--budget", "2h")
    assert rich.code == 0 and f"next: ismn run {recipe} --limit 60" in rich.err
    poor = ismn("plan", str(recipe), "attack.method=autoattack", "--budget", "0.001s")
    assert poor.code == 2 and "too little" in poor.err
    assert len(store.runs()) == trained


@pytest.mark.parametrize("budget", ["soon", "", "-3m", "30", "5d"])
def test_a_budget_is_a_time(ismn, budget: str) -> None:
    ended = ismn("plan", "quickstart", "--budget", budget)
    assert ended.code == 2 and "--budget 30m" in ended.err
