"""`ismn check` and `ismn init`: what is written conforms, and what does not is named."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ismn_cli.core.conformance import RULES
from ismn_cli.core.starters import STARTERS

if TYPE_CHECKING:
    from conftest import Ended, Ismn

KINDS = ("model", "defence", "attack", "dataset")
BAD = """
from ismn_models.pipeline import Defence


class Loud(Defence):
    policy = "reform"

    def __init__(self, gain=2.0):
        super().__init__()
        self.gain = gain
        print("made")

    def reform(self, x):
        return self.gain * x


def leaves(model, x, y, eps):
    return x + 2 * eps


def shapes(split):
    return None


def make(gain=1.0):
    return Loud(gain)


def broken():
    raise RuntimeError("out of <order>")


number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "user"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (place / "bad.py").write_text(BAD)
    yield place
    for name in [*(path.stem for path in place.glob("*.py"))]:
        sys.modules.pop(name, None)


def init(ismn: Ismn, *arguments: str) -> tuple[Path, Path, str]:
    ended = ismn("init", *arguments)
    assert ended.code == 0, ended.err
    file, test = map(Path, ended.out.split())
    check = next(line for line in ended.err.splitlines() if " check " in line)
    return file, test, check.split()[-1]


@pytest.mark.parametrize("kind", STARTERS)
def test_a_template_passes_its_own_test_and_the_check_that_it_names(ismn: Ismn, here: Path, kind: str) -> None:
    file, test, reference = init(ismn, kind)
    sys.path.insert(0, str(here))
    tests = [found for name, found in runpy.run_path(str(test)).items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()
    if kind == "recipe":
        assert ismn("recipes", "check", reference).code == 0
        return
    # the small world has three classes
    ended = ismn("check", reference, *(("--arg", "classes=3") if kind == "model" else ()))
    assert ended.code == 0, ended.out
    assert f"checked as a{'n' if kind == 'attack' else ''} {kind}".replace("dataset", "data set") in ended.out
    assert "0 could" not in ended.out and "FAIL" not in ended.out and "WARN" not in ended.out
    assert file.exists()


def test_templates_are_clean(ismn: Ismn, here: Path) -> None:
    files = [str(path) for kind in STARTERS for path in init(ismn, kind)[:2] if path.suffix == ".py"]
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run(
        [*ruff, "check", "--isolated", "--select", "E,F,I,UP,B,N,C4", "--line-length", "120", *files], check=True
    )
    subprocess.run([*ruff, "format", "--isolated", "--check", "--line-length", "120", *files], check=True)
    assert len((here / "blur.py").read_text().splitlines()) < 30


@pytest.mark.slow
def test_templates_are_typed(ismn: Ismn, here: Path) -> None:
    files = [str(path) for kind in STARTERS for path in init(ismn, kind)[:2] if path.suffix == ".py"]
    subprocess.run([sys.executable, "-m", "mypy", "--strict", *files], check=True)


def test_init_never_overwrites(ismn: Ismn, here: Path) -> None:
    file, test, _ = init(ismn, "defence", "MyBlur")
    assert (file.name, test.name) == ("my_blur.py", "test_my_blur.py")
    assert "class MyBlur(Defence)" in file.read_text()
    file.write_text("mine")
    ended = ismn("init", "defence", "MyBlur")
    assert ended.code == 2 and "there already" in ended.err and "--force" in ended.err
    assert file.read_text() == "mine"
    file.unlink()
    assert ismn("init", "defence", "my_blur").code == 2, "its test is there"
    assert not file.exists()
    assert ismn("init", "defence", "my_blur", "--force").code == 0
    assert "class MyBlur(Defence)" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("defense",), "Did you mean 'defence'?"),
        (("defence", "../x y.py"), "'x y' is no name"),
        (("defence", "class"), "'class' is no name"),
        (("attack", "torch"), "module called 'torch'"),
        (("attack", "<script>|.py"), "is no name"),
        (("model", "net.txt"), "not the name of a .py file"),
        (("recipe", "a\nb.yaml"), "is no name"),
    ],
)
def test_init_refuses_what_python_cannot_import(
    ismn: Ismn, here: Path, arguments: tuple[str, ...], told: str
) -> None:
    before = sorted(here.rglob("*"))
    ended = ismn("init", *arguments)
    assert ended.code == 2 and told in ended.err
    assert sorted(here.rglob("*")) == before


def test_init_into_folders(ismn: Ismn, here: Path) -> None:
    assert init(ismn, "attack", "deep/er/sharp_one.py")[0] == Path("deep/er/sharp_one.py")
    assert init(ismn, "attack", "deep")[0] == Path("deep/margin_pgd.py")
    assert init(ismn, "recipe", "deep/nightly")[0] == Path("deep/nightly.yaml")


def broken(ended: Ended) -> set[str]:
    return {code for code in RULES if f"FAIL      {code}" in ended.out or f"FAIL  {code}" in ended.out}


def test_what_is_broken_is_named_with_what_to_do(ismn: Ismn, here: Path) -> None:
    ended = ismn("check", "bad.py:Loud")
    assert ended.code == 1
    assert "CD02 reform" in ended.out and RULES["CD02"].remedy.split(",")[0] in ended.out
    assert "made" not in ended.out and "next:" not in ended.err
    assert ismn("check", "bad.py:Loud", "--arg", "gain=0.5").code == 0
    assert ismn("check", "bad.py:make").code == 0
    ended = ismn("check", "bad.py:leaves")
    assert ended.code == 1 and "CA04 ball" in ended.out and "CA14 optimum" in ended.out
    ended = ismn("check", "bad.py:shapes", "--format", "markdown")
    assert ended.code == 1 and "#### FAIL CS01 images" in ended.out


def test_json_for_machines(ismn: Ismn, here: Path) -> None:
    found = json.loads(ismn("check", "bad.py:Loud", "--format", "json").out)
    assert found["verdict"] == "fail"
    failed = [f for f in found["findings"] if f["verdict"] == "fail"]
    assert [f["code"] for f in failed] == ["CD02"]
    assert failed[0]["remedy"] == RULES["CD02"].remedy


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("bad.py:Lout",), "Did you mean 'Loud'?"),
        (("bad.py",), "does not say which"),
        (("nowhere.py:x",), "no file nowhere.py"),
        (("bad.py:number",), "--kind"),
        (("bad.py:broken",), "RuntimeError: out of <order>"),
        (("bad.py:Loud", "--arg", "loudness=2"), "--arg KEY=VALUE"),
        (("bad.py:Loud", "--kind", "defense"), "Did you mean 'defence'?"),
        (("bad.py:Loud", "--format", "html"), "format"),
        (("jepg",), "Did you mean 'jpeg'?"),
        (("jpeg", "--arg", "quality=3"), "no --arg"),
        (("bad.py:shapes", "--arg", "a=1"), "no --arg"),
        (("bad.py:leaves", "--arg", "steps=2"), "no parameter steps"),
        (("bad.py:Loud", "--dataset", "nothing"), "no data set"),
    ],
)
def test_wrong_usage(ismn: Ismn, here: Path, arguments: tuple[str, ...], told: str) -> None:
    ended = ismn("check", *arguments)
    assert ended.code == 2, ended.out
    assert told in ended.err
    assert ended.out == ""


def test_built_in_names(ismn: Ismn) -> None:
    for name, kind in (("fgsm", "attack"), ("cifar10-mini", "data set"), ("gn", "attack")):
        ended = ismn("check", name)
        assert ended.code == 0, ended.out
        assert kind in ended.out


def test_a_kind_that_is_told(ismn: Ismn, here: Path) -> None:
    (here / "odd.py").write_text(
        "import torch\n\ndef build(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))\n"
    )
    for arguments in (("odd.py:build",), ("odd.py:build", "--kind", "model")):
        assert ismn("check", *arguments).code == 0
    ended = ismn("check", "odd.py:build", "--kind", "defence")
    assert ended.code == 1 and "CD01" in ended.out


def test_all_templates_in_one_attack(ismn: Ismn, here: Path) -> None:
    for kind in KINDS:
        init(ismn, kind)
    ended = ismn(
        "attack", "--model", "net.py:Net", "--model-arg", "classes=2", "--skip-doctor", "--limit", "8",
        "--dataset", "shapes.py:shapes", "--defence", "none,blur.py:Blur", "--knowledge", "white,adaptive",
        "--method", "fgsm,margin_pgd.py:margin_pgd",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for name in ("shapes.py:shapes", "blur.py:Blur", "margin_pgd.py:margin_pgd"):
        assert name in ended.out
    assert "unknown (attack failed)" in ended.out and "nan" not in ended.out.lower()


def test_the_recipe_template_runs(ismn: Ismn, here: Path) -> None:
    assert ismn("train", "--system", "classifier", "epochs=1").code == 0
    file, _, _ = init(ismn, "recipe")
    ended = ismn("run", str(file), "dataset.limit=6", "defence=none")
    assert ended.code == 0, ended.err
    assert "adaptive" in ended.out
