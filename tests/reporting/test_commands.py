"""The command of a cell, read by the command line again, is the part of the recipe that makes it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.cli import app, run
from ismn_cli.cli import attack as attack_command
from ismn_cli.core.recipe_files import load_recipe, validate
from ismn_cli.core.recipes import MatrixRecipe, ModelChoice, TrainRecipe
from ismn_cli.core.records import Environment, RunRecord
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Samples, Subject, ThreatModel
from ismn_cli.reporting.commands import cell_command, narrowed, run_command

ENVIRONMENT = Environment(ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1)
GRADIENT = ("pgd", "fgsm", "mifgsm")
UNTOLD = {"name", "summary"}


class CaughtError(Exception):
    """A recipe on its way to be carried out."""


def record(recipe: Any, kind: str = "attack") -> RunRecord:
    return RunRecord(
        id="a-run", kind=kind, name="a", status="done", recipe=recipe.model_dump(mode="json"),
        environment=ENVIRONMENT, started="2026",
    )  # fmt: skip


def asked(command: str, monkeypatch: pytest.MonkeyPatch) -> MatrixRecipe | TrainRecipe:
    """Return the recipe that the command line would carry out."""

    def catch(recipe: MatrixRecipe, *_: object, **__: object) -> None:
        raise CaughtError(recipe)

    words = shlex.split(command)
    assert words[0] == "ismn"
    for module, name in ((attack_command, "carry_out"), (run.train, "carry_out")):
        monkeypatch.setattr(module, name, catch)
    with pytest.raises(CaughtError) as caught:
        app.app(words[1:], standalone_mode=False)
    return caught.value.args[0]


def alike(left: MatrixRecipe | TrainRecipe, right: MatrixRecipe | TrainRecipe) -> None:
    assert left.model_dump(exclude=UNTOLD) == right.model_dump(exclude=UNTOLD)


def cell_of(recipe: MatrixRecipe, knowledge: Knowledge, method: str | None, eps: float) -> Cell:
    """Return the cell of the recipe's last defence, as a plan would make it."""
    attack, before, sources = None, (), ()
    if method is not None:
        norm = recipe.attack.norm
        chain = [
            AttackSpec(method=name, threat=ThreatModel(norm=norm, eps=size))
            for name in recipe.attack.methods(knowledge)
            for size in dict.fromkeys(recipe.attack.eps)
        ]
        attack = next(a for a in chain if (a.method, a.threat.eps) == (method, eps))
        shared = knowledge is Knowledge.GRAY or (knowledge is Knowledge.BLACK and method in GRADIENT)
        if knowledge is Knowledge.BLACK and method in GRADIENT:
            sources = (Subject(name="at", weights="a"),)
        if recipe.survivors and not shared:
            own = [a for a in chain if knowledge is not Knowledge.BLACK or a.method not in GRADIENT]
            own.sort(key=lambda a: a.threat.eps)
            before = tuple(own[: own.index(attack)])
    return Cell(
        classifier=Subject(name="classifier"),
        defence=Subject(name=recipe.defence[-1]),
        samples=Samples(dataset="cifar10", split="test", count=1, total=1, ids="", data=""),
        knowledge=knowledge if attack else Knowledge.CLEAN,
        attack=attack,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        sources=sources,
        after=before,
    )


@st.composite
def recipes(draw: st.DrawFn) -> MatrixRecipe:
    levels = draw(st.lists(st.sampled_from(["gray", "white", "adaptive", "black"]), min_size=1, unique=True))
    methods = draw(st.lists(st.sampled_from([*GRADIENT, "square"]), min_size=1, max_size=3, unique=True))
    defences = draw(st.lists(st.sampled_from(["none", "ismn", "magnet-diverse"]), min_size=1, unique=True))
    alpha = draw(st.sampled_from(["eps/4", 0.01]))
    mapping: dict[str, Any] = {
        "name": draw(st.sampled_from(["attack-pgd", "quickstart", "matrix-cifar10", "mine"])),
        "dataset": {"name": draw(st.sampled_from(["cifar10", "cifar10-mini"])), "limit": draw(st.none() | st.just(7))},
        "defence": defences,
        "optional": draw(st.sampled_from([[], defences[:1]])),
        "knowledge": levels,
        "attack": {
            "method": methods,
            "eps": draw(st.lists(st.sampled_from([8 / 255, 0.1, 0.2, 0.123456789]), min_size=1, unique=True)),
            "params": {"pgd": {"steps": 3, "alpha": alpha}} if "pgd" in methods else {},
            "eot": draw(st.sampled_from([1, 10, 20])),
        },
        "survivors": draw(st.booleans()),
        "transfer": draw(st.sampled_from([["at"], ["at", "none@some-run"]])),
        "draws": draw(st.sampled_from([10, 4])),
        "weights": draw(st.sampled_from(["auto", "released"])),
        "stand_in_for": draw(st.sampled_from([None, "celeba"])),
        "seed": draw(st.integers(0, 3)),
        "search": draw(st.sampled_from(["auto", "fp32", "bf16"])),
        "batch_size": draw(st.sampled_from([32, 100])),
    }
    recipe = validate(mapping)
    assert isinstance(recipe, MatrixRecipe)
    return recipe


@settings(max_examples=60, deadline=None)
@given(recipes(), st.data())
def test_a_cells_command_asks_for_the_part_that_makes_it(recipe: MatrixRecipe, data: st.DataObject) -> None:
    level = data.draw(st.sampled_from(recipe.knowledge))
    method = data.draw(st.sampled_from([None, *recipe.attack.methods(level)]))
    cell = cell_of(recipe, level, method, data.draw(st.sampled_from(recipe.attack.eps)))
    command = cell_command(record(recipe), cell)
    assert command is not None and "\n" not in command
    with pytest.MonkeyPatch.context() as patch:
        found = asked(command, patch)
    assert isinstance(found, MatrixRecipe)
    part = narrowed(recipe, cell)
    if cell.attack is None:  # of attacks that are not run, any will do
        found, part = (each.model_copy(update={"attack": part.attack}) for each in (found, part))
    alike(found, part)
    again = cell_of(found, cell.knowledge, method, cell.attack.threat.eps) if cell.attack else None
    assert again is None or again.after == cell.after


@settings(max_examples=40, deadline=None)
@given(recipes(), st.sampled_from(["attack", "run"]))
def test_a_runs_command_asks_for_its_recipe(recipe: MatrixRecipe, kind: str) -> None:
    command = run_command(record(recipe, kind))
    assert command is not None
    with pytest.MonkeyPatch.context() as patch:
        alike(asked(command, patch), recipe)


@pytest.mark.parametrize("name", ["matrix-cifar10", "quickstart", "table4-celeba", "train-magnet-mnist"])
def test_a_recipe_that_comes_with_ismn_is_run_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(name)
    command = run_command(record(recipe, "run"))
    assert command == f"ismn run {name} --device cpu"
    alike(asked(command, monkeypatch), recipe)


def test_what_this_version_does_not_understand_has_no_command() -> None:
    strange = record(MatrixRecipe(name="x")).model_copy(update={"recipe": {"task": "dream", "<b>": "|"}})
    assert run_command(strange) is None
    assert cell_command(strange, cell_of(MatrixRecipe(name="x"), Knowledge.GRAY, "pgd", 8 / 255)) is None


def test_a_model_of_ones_own_is_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"reference": "net.py:Net", "arguments": {"depth": 3}, "mean": [0.5], "std": [0.2], "doctor": False}
    recipe = validate({"task": "matrix", "name": "mine", "model": model, "dataset": {"limit": 7}})
    assert isinstance(recipe, MatrixRecipe) and recipe.model is not None
    found = asked(run_command(record(recipe)), monkeypatch)
    assert isinstance(found, MatrixRecipe) and found.model == recipe.model and found.dataset == recipe.dataset


def test_the_options_of_a_model_make_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelChoice(reference="a b.py:Net", arguments={"depth": 3, "kind": "x"}, checkpoint="w.th", mean=(0.5,),
                        std=(0.25,), unsafe_pickle=True, doctor=False)  # fmt: skip
    found = asked(shlex.join(["ismn", "attack", *model.options()]), monkeypatch)
    assert isinstance(found, MatrixRecipe) and found.model == model
