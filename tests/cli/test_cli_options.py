"""Every option reaches the resolved recipe; one that was not given overrides nothing."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from ismn_cli.cli import attack, defend, report, run, train
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe

ATTACK = {
    "method": ("fgsm", "attack.method", ("fgsm",)),
    "eps": ("16/255", "attack.eps", (16 / 255,)),
    "norm": ("l2", "attack.norm", "l2"),
    "param": ("steps=7", "attack.params", {"pgd": {"steps": 7}}),
    "eot": ("3", "attack.eot", 3),
    "transfer": ("none@RUN,ddsa", "transfer", ("none@RUN", "ddsa")),
    "defence": ("none,ddsa", "defence", ("none", "ddsa")),
    "knowledge": ("white", "knowledge", ("white",)),
    "dataset": ("cifar10-mini", "dataset.name", "cifar10-mini"),
    "exact": (None, "search", "fp32"),
    "limit": ("17", "dataset.limit", 17),
    "attribute": ("Male", "dataset.attribute", "Male"),
    "image_size": ("64", "dataset.image_size", 64),
    "weights": ("released", "weights", "released"),
    "seed": ("9", "seed", 9),
    "batch_size": ("5", "batch_size", 5),
}
TRAIN = {
    "overrides": ("config.lr=0.5", "config", {"lr": 0.5}),
    "dataset": ("cifar10", "dataset.name", "cifar10"),
    "system": ("magnet", "system", "magnet"),
    "classifier": ("released", "classifier", "released"),
    "epochs": ("3", "epochs", 3),
    "limit": ("17", "dataset.limit", 17),
    "attribute": ("Male", "dataset.attribute", "Male"),
    "image_size": ("64", "dataset.image_size", 64),
    "seed": ("9", "seed", 9),
    "precision": ("fp32", "precision", "fp32"),
}
MODEL = {
    "model_arg": (["--model-arg", "depth=3"], "arguments", {"depth": 3}),
    "checkpoint": (["--checkpoint", "w.th"], "checkpoint", Path("w.th")),
    "mean": (["--mean", ".4,.5,.6", "--std", ".2"], "mean", (0.4, 0.5, 0.6)),
    "std": (["--mean", ".4", "--std", ".1,.2,.3"], "std", (0.1, 0.2, 0.3)),
    "unsafe_pickle": (["--unsafe-pickle"], "unsafe_pickle", True),
    "skip_doctor": (["--skip-doctor"], "doctor", False),
}
"""Of a model of one's own, in `attack` and `train` alike."""
CARRIED = {"device": "cpu", "data_dir": "/data", "store": "/tmp/other-store"}
"""Where, not what: handed on beside the recipe."""
ENGINE = ("engine", "address")
"""By whom: tests/stages/test_cluster.py. Shards and trainings of ``run``: tests/cli/test_cli_shard.py."""


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch):
    """Run a command up to the point where the work would begin; return (recipe, what else is handed on)."""
    seen: list[tuple[Any, tuple[Any, ...]]] = []

    def carry_out(recipe: Any, *rest: Any, **more: Any) -> None:
        seen.append((recipe, (*rest, *more.values())))
        raise UsageError("captured")

    monkeypatch.setattr(attack, "carry_out", carry_out)
    monkeypatch.setattr(train, "carry_out", carry_out)
    monkeypatch.setattr(attack, "with_data_at_hand", lambda recipe, _: recipe)
    return seen


def _at(recipe: Any, place: str) -> Any:
    for name in place.split("."):
        recipe = getattr(recipe, name)
    return recipe


def _as_option(name: str, value: str | None) -> list[str]:
    """Return an option with its value, which a flag has none of."""
    if name == "overrides":
        return [str(value)]
    return [f"--{name.replace('_', '-')}", *([] if value is None else [value])]


@pytest.mark.parametrize(("command", "name"), [("attack", n) for n in ATTACK] + [("train", n) for n in TRAIN])
def test_every_option_changes_what_it_names_and_nothing_else(ismn, capture, command: str, name: str) -> None:
    text, place, expected = {"attack": ATTACK, "train": TRAIN}[command][name]
    ismn(command)
    ismn(command, *_as_option(name, text))
    plain, changed = (recipe for recipe, _ in capture)
    assert _at(changed, place) == expected
    if (command, name) != ("train", "dataset"):  # there is one trainable set: the option can only confirm it
        assert _at(plain, place) != expected
    top = place.split(".")[0]
    rest = {"name", top}
    assert changed.model_dump(exclude=rest) == plain.model_dump(exclude=rest)


@pytest.mark.parametrize("command", ["attack", "train"])
@pytest.mark.parametrize("name", MODEL)
def test_every_option_of_a_model_changes_it(ismn, capture, command: str, name: str) -> None:
    options, field, expected = MODEL[name]
    ismn(command)
    ismn(command, "--model", "net.py:Net")
    ismn(command, "--model", "net.py:Net", *options)
    none, plain, changed = (recipe.model for recipe, _ in capture)
    assert none is None and plain.reference == "net.py:Net"
    assert getattr(changed, field) == expected != getattr(plain, field)


@pytest.mark.parametrize("command", ["attack", "train"])
def test_without_options_the_defaults_are_the_recipes_own(ismn, capture, command: str) -> None:
    ismn(command)
    ((recipe, rest),) = capture
    cls = {"attack": MatrixRecipe, "train": TrainRecipe}[command]
    assert recipe.model_dump(exclude={"name"}) == cls(name="x").model_dump(exclude={"name"})
    assert rest[:3] == (None, None, None)


@pytest.mark.parametrize("command", ["attack", "train", "run"])
@pytest.mark.parametrize("name", CARRIED)
def test_places_are_handed_on(ismn, capture, command: str, name: str) -> None:
    first = ["run", "quickstart"] if command == "run" else [command]
    ismn(*first, *_as_option(name, CARRIED[name]))
    ((_, rest),) = capture
    assert any(str(value) == CARRIED[name] for value in rest)


def test_no_option_is_left_out_of_these_tables() -> None:
    # Trackers are told, and decide nothing: tests/cli/test_track.py.
    known = {
        # Of defence_arg: tests/cli/test_cli_user_code.py.
        attack.attack: {*ATTACK, *CARRIED, *ENGINE, "model", *MODEL, "defence_arg", "track"},
        train.train: {*TRAIN, *CARRIED, "model", *MODEL, "fresh", "track"},
    }
    for function, names in known.items():
        assert set(inspect.signature(function).parameters) == names
    assert set(inspect.signature(run.run).parameters) == {
        "recipe", "overrides", "limit", "plan", "track", *CARRIED, *ENGINE, "part", "trainings",
    }  # fmt: skip
    assert set(inspect.signature(defend.defend).parameters) == {"defence", "defence_arg", "run", "weights", *CARRIED}
    assert set(inspect.signature(report.report).parameters) == {"form", "run", "compare", "output", "schema", "store"}


def test_lists_may_be_repeated_or_joined(ismn, capture) -> None:
    ismn("attack", "--method", "fgsm", "--method", "pgd,bim", "--eps", "8/255,0.2", "--eps", "0.3")
    ((recipe, _),) = capture
    assert recipe.attack.method == ("fgsm", "pgd", "bim")
    assert recipe.attack.eps == (8 / 255, 0.2, 0.3)
    assert recipe.name == "attack-fgsm-pgd-bim"


def test_a_recipe_takes_overrides_and_the_limit(ismn, capture) -> None:
    ismn("run", "quickstart", "attack.eps=16/255", "seed=4", "--limit", "33")
    ((recipe, _),) = capture
    assert (recipe.attack.eps, recipe.seed, recipe.dataset.limit) == ((16 / 255,), 4, 33)


@pytest.mark.parametrize(
    ("eps", "says"), [(8 / 255, ""), (16 / 255, ""), (0.1, "8/255"), (0.2, "98.2%"), (0.3, "67.1%"), (0.9, "50.0%")]
)
def test_sizes_far_above_the_usual_are_told(eps: float, says: str) -> None:
    recipe = MatrixRecipe(name="x", attack={"eps": eps})
    notes = attack.size_notes(recipe)
    assert (len(notes) == 1 and says in notes[0]) if says else not notes
    assert attack.size_notes(MatrixRecipe(name="x", attack={"eps": eps, "norm": "l2"})) == []


def test_cifar10_is_taken_where_it_is_on_disk(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ismn_cli.data import loading

    recipe = MatrixRecipe(name="x", dataset={"limit": 5})
    for at_hand, expected in ((True, "cifar10"), (False, "cifar10-mini")):
        monkeypatch.setattr(loading, "dataset_at_hand", lambda _, answer=at_hand: answer)
        chosen = attack.with_data_at_hand(recipe, tmp_path)
        assert (chosen.dataset.name, chosen.dataset.limit) == (expected, 5)


@pytest.mark.parametrize("command", ["train", "attack", "defend", "report", "run", "list"])
def test_every_help_page_ends_with_examples_that_are_commands(ismn, command: str) -> None:
    ended = ismn(command, "--help")
    lines = [line.strip() for line in ended.out.splitlines() if line.strip()]
    assert ended.code == 0 and "Examples:" in lines
    examples = lines[lines.index("Examples:") + 1 :]
    assert examples and all(line.startswith(f"ismn {command}") for line in examples)
