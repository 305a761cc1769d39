from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core import recipe_files
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipe_files import find_recipe, load_recipe, recipe_names, validate
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
from ismn_cli.core.specs import Knowledge

PACKAGED = ["quickstart", "table3-cifar10", "train-ismn-cifar10"]


def refused(*arguments: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(*arguments)
    return f"{caught.value.message} {caught.value.hint}"


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_packaged_recipes_are_valid_and_named_as_their_files() -> None:
    assert set(PACKAGED) <= {name for name, _ in recipe_names()}
    for name, summary in recipe_names():
        recipe = load_recipe(name)
        assert (recipe.name, recipe.summary) == (name, summary)
        assert summary


def test_table3_is_the_papers_grid() -> None:
    recipe = load_recipe("table3-cifar10")
    assert isinstance(recipe, MatrixRecipe)
    assert recipe.defence == ("none", "ismn", "magnet", "ddsa")
    assert recipe.attack.method == ("fgsm", "rfgsm", "pgd")
    assert recipe.attack.eps == (8 / 255, 0.2, 0.3, 0.4)
    assert recipe.knowledge == (Knowledge.GRAY,)
    assert recipe.dataset.name == "cifar10" and recipe.dataset.limit is None


def test_recipes_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").name == "quickstart"


def test_the_packages_own_recipes_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("recipes", "ismn_cli/recipes"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "one.yaml").write_text(f"summary: {place}")
    monkeypatch.setattr(recipe_files, "_PACKAGE", tmp_path / "ismn_cli")
    assert recipe_names() == [("one", "ismn_cli/recipes")]
    (tmp_path / "ismn_cli/recipes/one.yaml").unlink()
    (tmp_path / "ismn_cli/recipes").rmdir()
    assert recipe_names() == [("one", "recipes")]


def test_a_recipe_by_its_path(written: Any) -> None:
    recipe = load_recipe(written("defence: [magnet]\nattack: {eps: [8/255, 1e-3]}"))
    assert recipe.name == "mine"
    assert recipe.defence == ("magnet",)
    assert recipe.attack.eps == (8 / 255, 0.001)


def test_yaml_anchors_and_merges(written: Any) -> None:
    text = "attack:\n  params:\n    pgd: &p {steps: 3}\n    bim: {<<: *p, alpha: 1/255}"
    assert load_recipe(written(text)).attack.params == {
        "pgd": {"steps": 3},
        "bim": {"steps": 3, "alpha": 1 / 255},
    }


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    assert "Did you mean 'quickstart'?" in refused("quikstart")
    assert "no recipe file" in refused(str(tmp_path / "none.yaml"))
    assert "no recipe file" in refused(str(tmp_path))
    assert find_recipe("quickstart").is_file()


@pytest.mark.parametrize(
    "text",
    [
        "- a\n- b",
        "just text",
        "",
        "a: [1, 2",
        "seed: 1\nseed: 2",
        "a: !!python/object:os.system {}",
        "[" * 5000,
        "a: &a [*a]",
        "? [a]\n: b",
    ],
)
def test_files_that_are_no_recipes(written: Any, text: str) -> None:
    path = written(text)
    assert path in refused(path)


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    assert "Cannot read" in refused(str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(
    ("override", "place", "expected"),
    [
        ("attack.eps=8/255", "attack.eps", (8 / 255,)),
        ("attack.eps=0.3", "attack.eps", (0.3,)),
        ("attack.eps=[0.1, 4/255]", "attack.eps", (0.1, 4 / 255)),
        ("attack.eps=1e-3", "attack.eps", (0.001,)),
        ("attack.method=bim", "attack.method", ("bim",)),
        ("defence=[none,ddsa]", "defence", ("none", "ddsa")),
        ("dataset.limit=7", "dataset.limit", 7),
        ("dataset.limit=null", "dataset.limit", None),
        ("seed=3", "seed", 3),
        ("attack.params.pgd.steps=20", "attack.params", {"pgd": {"steps": 20}}),
        ("attack.params.pgd.alpha=2/255", "attack.params", {"pgd": {"alpha": 2 / 255}}),
        ("attack.params.pgd.alpha=1e-2", "attack.params", {"pgd": {"alpha": 0.01}}),
    ],
)
def test_overrides(override: str, place: str, expected: object) -> None:
    changed, plain = load_recipe("quickstart", [override]), load_recipe("quickstart")
    value: Any = changed
    for part in place.split("."):
        value = getattr(value, part)
    assert value == expected
    # and nothing else changed
    top = place.split(".")[0]
    assert changed.model_dump(exclude={top}) == plain.model_dump(exclude={top})


def test_later_overrides_win() -> None:
    assert load_recipe("quickstart", ["seed=1", "seed=2"]).seed == 2


def test_all_problems_at_once() -> None:
    overrides = [
        "attack.epss=0.3",
        "attack.method=[fgms,pgd]",
        "attack.params.pgdd.steps=3",
        "seed=x",
        "dataset.limit=0",
        "dataset.name=cifar",
        "defence=magent",
        "attack.eps=2",
        "knowledge=[]",
        "a=",
        "b",
        "seed.x=1",
        "attack.norm=[",
    ]
    message = refused("quickstart", overrides)
    assert "recipe 'quickstart' has 13 problems" in message
    for part in (
        "attack.epss: unknown key; did you mean 'eps'?",
        "there is no attack called 'fgms'; did you mean 'fgsm'?",
        "there is no attack called 'pgdd'; did you mean 'pgd'?",
        "seed: should be a valid integer",
        "dataset.limit: should be greater than or equal to 1, not 0",
        "there is no data set called 'cifar'; did you mean 'cifar10'?",
        "there is no system called 'magent'; did you mean 'magnet'?",
        "attack.eps.0: eps 2 is outside [0, 1]",
        "knowledge: the list is empty",
        "'a=': no value is given",
        "'b': should have the form key=value",
        "'seed.x=1': seed is a value and has no keys",
        "'attack.norm=['",
    ):
        assert part in message, part


def test_training_is_checked_with_the_systems_own_settings() -> None:
    overrides = ["config.generater=plain", "config.generator=bent", "dataset.name=cifar10-mini", "epochs=0"]
    message = refused("train-ismn-cifar10", overrides)
    assert "config.generater: unknown key; did you mean 'generator'?" in message
    assert "config.generator: should be 'skip' or 'plain', not 'bent'" in message
    assert "'cifar10-mini' is for evaluation only" in message
    assert "epochs: should be greater than or equal to 1, not 0" in message
    assert "did you mean 'ismn'?" in refused("train-ismn-cifar10", ["system=isnm"])


@pytest.mark.parametrize("eps", ["-0.1", "1.5", "abc", "nan", "8/0", "inf", "null", "[]"])
def test_sizes_that_are_none(eps: str) -> None:
    assert "attack.eps" in refused("quickstart", [f"attack.eps={eps}"])


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "''"])
def test_a_name_that_cannot_be_a_folder(name: str) -> None:
    assert "name:" in refused("quickstart", [f"name={name}"])


@given(st.sampled_from([MatrixRecipe(name="a"), TrainRecipe(name="b")]), st.integers())
def test_a_dumped_recipe_is_the_same_recipe(recipe: MatrixRecipe | TrainRecipe, seed: int) -> None:
    recipe = recipe.model_copy(update={"seed": seed})
    assert validate(recipe.model_dump(mode="json")) == recipe
    assert validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from([*MatrixRecipe.model_fields, *TrainRecipe.model_fields, "other", 3])


@given(st.dictionaries(keys, values | st.sampled_from(["matrix", "train", "ismn", "cifar10"])))
def test_anything_is_a_recipe_or_a_usage_error(mapping: dict[Any, Any]) -> None:
    try:
        recipe = validate(mapping)
    except UsageError as error:
        assert error.message
    else:
        assert isinstance(recipe, MatrixRecipe | TrainRecipe)
        assert recipe.name == mapping["name"]


@given(st.text(max_size=30))
def test_any_override_is_taken_or_refused(text: str) -> None:
    try:
        load_recipe("quickstart", [text])
    except UsageError as error:
        assert error.message
