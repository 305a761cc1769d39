"""A defence and an attack of the user's own by their files' names, through every command that takes a name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ismn_cli.core.store import Store

CODE = """
import torch
from ismn_models.pipeline import Defence

print("imported")


class Grey(Defence):
    '''Half of each pixel's colour.'''

    policy = "reform"

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def reform(self, x):
        print("reformed", end="")
        return (1 - self.share) * x + self.share * x.mean(1, keepdim=True)


def attack(model, x, y, eps, steps: int = 2):
    '''Signs of the gradient.'''
    point = x.clone()
    for _ in range(steps):
        point.requires_grad_()
        (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(point), y), point)
        point = (x + (point.detach() + eps * slope.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return point


def broken(model, x, y, eps):
    model.train()
    raise ValueError("| <script>alert(1)</script> [red] % _ & {} \\\\input{x}")
"""
HOSTILE = "a|b <i>&_%$ [red] é.py"


@pytest.fixture(autouse=True)
def here(small: Path, ismn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine.py", HOSTILE):
        (folder / name).write_text(CODE)
    assert ismn("train", "--system", "classifier").code == 0
    return folder


def test_through_every_command(ismn, store: Store, here: Path) -> None:
    defence, attack = f"{HOSTILE}:Grey", f"{HOSTILE}:attack"
    asked = ("--dataset", "cifar10", "--limit", "8", "--eps", "0.1")
    ended = ismn(
        "attack", "--defence", f"none,{defence}", "--defence-arg", "share=0.25", "--method", f"pgd,{attack}",
        "--param", "steps=3", "--knowledge", "gray,white,adaptive", *asked,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "imported" not in ended.out and f"{defence}: before run" in ended.err
    run = store.run("latest")
    assert run.record.recipe["attack"]["params"] == {"pgd": {"steps": 3}, attack: {"steps": 3}}
    assert run.record.recipe["defence_params"] == {defence: {"share": 0.25}}
    assert len(run.record.cells) == 2 * (1 + 2 * 3)
    assert "/" not in run.record.id and " " not in run.record.id
    for form in ("rich", "markdown", "latex", "csv", "json", "html"):
        told = ismn("report", "--format", form)
        assert told.code == 0, told.err
        assert form != "html" or ("<i>&_" not in told.out and "a|b &lt;i&gt;&amp;_%$ [red]" in told.out)
    assert {row["defence"] for row in json.loads(ismn("report", "--format", "json").out)["rows"]} == {"none", defence}
    assert ismn("audit", "--defence", defence, "--limit", "3").code in (0, 1)
    assert ismn("gate", "--min", "clean_accuracy=0.1", "--defence", defence).code in (0, 3)
    one = ("--defence", defence, "--knowledge", "white", "--method", attack)
    shown = ismn("show", run.record.id, str(store.cell(run.record.cells[0]).ids[0]), *one)
    assert shown.code == 0 and "reformed" in shown.out, shown.err
    assert ismn("export", run.record.id, *one, "--output", "adv.npz").code == 0
    both = ("--defence", f"none,{defence}")
    scored = ismn("score", "--examples", "adv.npz", *both, "--defence-arg", "share=0.1", *asked)
    assert scored.code == 0, scored.err
    again = ismn("rerun", str(run.folder / "record.json"), "--format", "json")
    assert again.code == 0, again.err
    assert {row["sameness"] for row in json.loads(again.out)["rows"]} == {"identical"}
    assert ismn("defend", *both, "--run", run.record.id).code == 0
    # With the arguments of the run whose examples they are: the cells are those of it.
    assert set(store.run("latest").record.cells) <= set(run.record.cells)


def test_an_attack_that_fails_is_named_in_every_format(ismn, store: Store) -> None:
    ended = ismn("attack", "--method", "mine.py:broken,pgd", "--dataset", "cifar10", "--limit", "8", "--eps", "0.1")
    assert ended.code == 0, ended.err
    assert "left the model in training mode" in " ".join(ended.out.split())
    for form in ("rich", "markdown", "latex", "csv", "json", "html"):
        told = ismn("report", "--format", form)
        assert told.code == 0
        assert form != "html" or "<script>alert(1)" not in told.out
        assert form != "latex" or "\\input{x}" not in told.out
    notes = json.loads(ismn("report", "--format", "json").out)["notes"]
    assert "crashed on 8 samples: ValueError: | <script>" in " ".join(notes)
    rows = json.loads(ismn("report", "--format", "json").out)["rows"]
    assert next(row["unknown"] for row in rows if row["attack"] == "mine.py:broken") > 0


def test_a_recipe_names_them_too(ismn, here: Path, store: Store) -> None:
    (here / "own.yaml").write_text(
        "defence: [none, 'mine.py:Grey']\ndefence_params: {'mine.py:Grey': {share: 0.75}}\n"
        "knowledge: [gray, adaptive]\ndataset: {name: cifar10, limit: 8}\n"
        "attack: {method: 'mine.py:attack', eps: 0.1, params: {'mine.py:attack': {steps: 3}}}\n"
    )
    ended = ismn("run", "own.yaml")
    assert ended.code == 0, ended.err
    assert len(store.run("latest").record.cells) == 6
    planned = ismn("run", "own.yaml", "--plan")
    assert planned.code == 0 and "mine.py:Grey" in planned.out, planned.err


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        (("--defence", "mine.py:Gray"), "no 'Gray' in mine.py", "Did you mean 'Grey'"),
        (("--defence", "jpge"), "no system called 'jpge'", "did you mean 'jpeg'"),
        (("--defence", "jpeg", "--defence-arg", "share=1"), "is for a defence of your own", "file.py:Name"),
        (("--defence", "mine.py:Grey", "--defence-arg", "share"), "--defence-arg takes KEY=VALUE", "--defence-arg"),
        (("--defence", "mine.py:Grey", "--defence-arg", "sharp=1"), "unexpected keyword", "--defence-arg KEY=VALUE"),
        (("--method", "mine.py:attak"), "no 'attak' in mine.py", "Did you mean 'attack'"),
        (("--method", "mine.py:attack", "--param", "step=3"), "no parameter step", "steps=2"),
        (("--method", "mine.py:attack", "--norm", "l2"), "not in l2", "pgdl2"),
        (("--method", "mine.py:Grey"), "not an attack", "attack(model, x, y, eps"),
    ],
)
def test_errors_say_what_to_type(ismn, store: Store, arguments: tuple[str, ...], told: str, hint: str) -> None:
    ended = ismn("attack", "--dataset", "cifar10", "--limit", "4", *arguments)
    assert ended.code == 2
    said = " ".join(ended.err.split())
    assert told in said and hint in said, ended.err
    assert "Traceback" not in ended.err
    assert not (store.root / "cells").exists()
