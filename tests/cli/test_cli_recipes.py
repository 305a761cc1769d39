"""`ismn recipes`: shown and copied as they are, never over something else; checked by line, and nothing is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ismn_cli.cli import console
from ismn_cli.cli.app import exit_code
from ismn_cli.core.recipe_files import find_recipe, load_recipe, recipe_names

WRONG = """\
task: matrix
dataset:
  name: cifar11
  limit: 0
defence:
  - none
  - magent
  - "my/def.py:Foo"
  - mine.py:Gaurd
attack:
  method: [fgms, pgd]
  params:
    pgd:
      steps: 3
  epss: 3
seed: x
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def ismn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ended]]:
    """Run a command line in this process, with the systems that there are."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        console.people.cache_clear()
        return Ended(exit_code(arguments), *capsys.readouterr())

    yield run
    console.people.cache_clear()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_ls_is_what_there_is(ismn) -> None:
    rows = [line.split("\t") for line in ismn("recipes", "ls", "--plain").out.splitlines()]
    assert [(name, summary) for name, _, summary in rows] == recipe_names()
    assert {task for _, task, _ in rows} == {"matrix", "train"}
    assert "quickstart" in ismn("recipes", "ls").out


@pytest.mark.parametrize("name", [name for name, _ in recipe_names()])
def test_cat_is_the_file_with_its_comments(ismn, name: str) -> None:
    whole, shown = find_recipe(name).read_text(), ismn("recipes", "cat", name)
    assert shown.code == 0 and shown.out.splitlines()[1:] == whole.splitlines()[1:]


def test_a_copy_is_the_same_recipe_and_nothing_is_replaced(ismn, here: Path) -> None:
    assert ismn("recipes", "cp", "quickstart").code == 0
    assert load_recipe("quickstart.yaml") == load_recipe("quickstart")
    assert (here / "quickstart.yaml").read_text() == ismn("recipes", "cat", "quickstart").out
    (here / "quickstart.yaml").write_text("mine")
    ended = ismn("recipes", "cp", "quickstart")
    assert ended.code == 2 and "is there already" in ended.err and "--force" in ended.err
    assert (here / "quickstart.yaml").read_text() == "mine"
    assert ismn("recipes", "cp", "quickstart", "--force").code == 0
    assert load_recipe("quickstart.yaml") == load_recipe("quickstart")


def test_a_copy_goes_where_it_is_told(ismn, here: Path) -> None:
    (here / "sub folder").mkdir()
    assert (ended := ismn("recipes", "cp", "quickstart", "sub folder")).code == 0
    assert "ismn run 'sub folder/quickstart.yaml'" in ended.err
    assert ismn("recipes", "cp", "quickstart", "other.yaml").code == 0
    assert load_recipe("other.yaml").name == "quickstart"
    assert "no folder" in ismn("recipes", "cp", "quickstart", "nowhere/x.yaml").err
    assert "Did you mean 'quickstart'?" in ismn("recipes", "cp", "quikstart").err
    (here / "link.yaml").symlink_to(here / "gone.yaml")
    assert ismn("recipes", "cp", "quickstart", "link.yaml").code == 2 and not (here / "gone.yaml").exists()
    whole = (here / "other.yaml").read_text()
    ended = ismn("recipes", "cp", "./other.yaml", "other.yaml", "--force")
    assert ended.code == 2 and "is the recipe itself" in ended.err and (here / "other.yaml").read_text() == whole


def test_every_recipe_that_comes_with_ismn_is_well(ismn) -> None:
    names = [name for name, _ in recipe_names()]
    ended = ismn("recipes", "check", *names)
    assert ended.code == 0 and ended.out.count("all is well") == len(names)


def test_all_problems_of_all_files_with_their_lines(ismn, here: Path) -> None:
    (here / "wrong.yaml").write_text(WRONG)
    (here / "mine.py").write_text("import torch\nprint('run')\nclass Guard(torch.nn.Module): ...\n")
    (here / "params.yaml").write_text("attack:\n  method: pgd\n  params:\n    pgd:\n      stepz: 4\n      steps: 0\n")
    (here / "torn.yaml").write_text("a: 1\nb: [1,\nc: 2\n")
    (here / "twice.yaml").write_text("seed: 1\nname: x\nseed: 2\n")
    (here / "list.yaml").write_text("- 1\n")
    (here / "binary.yaml").write_bytes(bytes(range(256)))
    names = ["wrong", "params", "torn", "twice", "list", "binary", "gone"]
    ended = ismn("recipes", "check", *(f"{name}.yaml" for name in names), "quickstart")
    assert ended.code == 2
    for line in (
        "wrong.yaml:3: dataset.name: there is no data set called 'cifar11'; did you mean 'cifar10'?",
        "wrong.yaml:4: dataset.limit: should be greater than or equal to 1, not 0",
        "wrong.yaml:7: defence: there is no system called 'magent'; did you mean 'magnet'?",
        "wrong.yaml:8: defence: 'my/def.py:Foo': there is no file my/def.py",
        "wrong.yaml:9: defence: 'mine.py:Gaurd': there is no 'Gaurd' in mine.py; did you mean 'Guard'?",
        "wrong.yaml:11: attack.method: there is no attack called 'fgms'; did you mean 'fgsm'?",
        "wrong.yaml:15: attack.epss: unknown key; did you mean 'eps'?",
        "params.yaml:5: attack.params.pgd: there is no parameter stepz; did you mean 'steps'?",
        "params.yaml:6: attack.params.pgd: steps: 0 is out of range; it must be at least 1",
        "list.yaml:1: it is not a mapping of names to values",
        "quickstart: all is well: a matrix of none, ismn, magnet, ddsa on cifar10-mini.",
    ):
        assert line in ended.out.splitlines(), line
    assert "wrong.yaml:16: seed: should be a valid integer" in ended.out
    assert "torn.yaml:4: it is no YAML text" in ended.out
    assert "twice.yaml:1: it is no YAML text: 'seed' is given twice" in ended.out
    assert "binary.yaml: it cannot be read" in ended.out and "gone.yaml: There is no recipe file" in ended.out
    assert "problems in 7 of 8 files." in ended.err and "run\n" not in ended.out


def test_a_hostile_file_writes_one_line_for_each_problem(ismn, here: Path) -> None:
    names = r'["a\nb.yaml:1: all is well", "\e[2J", "<script>", "\U0001F41F|"]'
    (here / "h.yaml").write_text(f'defence: {names}\n"\\r": 1\n')
    ended = ismn("recipes", "check", "h.yaml")
    assert ended.code == 2 and "\x1b" not in ended.out and "\r" not in ended.out
    assert all(line.startswith("h.yaml:") for line in ended.out.splitlines())
    assert len(ended.out.splitlines()) == 5


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "&a a: *a", "[" * 1200, "? [a]\n: b", "a: !!python/object:os.system {}"]
)
def test_what_is_no_recipe_does_not_hang_or_run(ismn, here: Path, text: str) -> None:
    (here / "x.yaml").write_text(text)
    ended = ismn("recipes", "check", "x.yaml")
    assert ended.code == 2 and ended.out.startswith("x.yaml:")


def test_the_schema_is_printed(ismn) -> None:
    from ismn_cli.core.recipe_schema import stored

    assert ismn("recipes", "schema").out == stored()


def test_it_is_checked_without_torch(here: Path) -> None:
    (here / "wrong.yaml").write_text(WRONG)
    code = "import sys; from ismn_cli.cli.app import exit_code\n" + "".join(
        f"exit_code(['recipes', {arguments}])\n" for arguments in ("'check', 'wrong.yaml', 'quickstart'", "'ls'")
    )
    code += "sys.exit(f'{sorted(set(sys.modules) & {\"torch\", \"torchvision\", \"pandas\"})}')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert ended.stderr.splitlines()[-1] == "[]", ended.stderr
