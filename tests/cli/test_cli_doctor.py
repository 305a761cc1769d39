"""`ismn doctor` from the shell: names and references in, findings and an exit code out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_world
import torch

from ismn_cli.cli.options import key_values
from ismn_cli.core.findings import Verdict
from ismn_models.images import Images
from ismn_models.shape import Shape

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, softmax=False):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 3)
        self.softmax = softmax

    def forward(self, x):
        logits = self.out(self.norm(self.conv(x)).relu().mean((2, 3)))
        return logits.softmax(1) if self.softmax else logits

print("hello from net.py")

class Greedy(nn.Module):
    def forward(self, x):
        raise KeyError("what?")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder, with a net in a file and its weights, trained on pixels of 0 to 255."""
    place = tmp_path / "own"
    place.mkdir()
    (place / "net.py").write_text(CODE)
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained().items()}, "epoch": 3}, place / "net.pt")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield place
    sys.modules.pop("_ismn_user_net", None)


def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net, images = small_world.Net(3, 3, 6), small_world.load("train")
    config = small_world.PlainConfig(lr=0.05)
    stage = small_world.Descent("base", net, config, small_world.build_plain(config, Shape(3, 3), net))
    for epoch in range(12):
        for x, y in _shuffled(images, epoch):
            stage.step(x, y, torch.arange(len(x)), 0.0)
    with torch.no_grad():
        net.conv.weight /= 255
    return net.eval().state_dict()


def _shuffled(images: Images, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.take(order).batches(16)


Ismn = Callable[..., Any]
RIGHT = ("net.py:Net", "--checkpoint", "net.pt", "--mean", "0,0,0", "--std", "0.0039216")


def found(out: str) -> dict[str, dict[str, Any]]:
    return {finding["code"]: finding for finding in json.loads(out)["findings"]}


def failed(out: str) -> set[str]:
    return {code for code, finding in found(out).items() if finding["verdict"] == Verdict.FAIL}


def test_a_sound_model_ends_with_0(ismn: Ismn, folder: Path) -> None:
    ended = ismn("doctor", *RIGHT, "--expected", "95%", "--format", "json")
    assert (ended.code, failed(ended.out)) == (0, set()), ended.out
    assert found(ended.out)["MD03"]["evidence"]["samples"] == 30
    assert "net.pt" in ended.err


def test_every_format_tells_the_same(ismn: Ismn, folder: Path) -> None:
    texts = [ismn("doctor", *RIGHT[:3], "--format", form).out for form in ("rich", "markdown", "json")]
    for code, finding in found(texts[2]).items():
        for text in texts[:2]:
            assert f"{code} {finding['name']}" in text
    assert all("on 30 test images of cifar10-mini" in text for text in texts[:2])


def test_a_wrong_scaling_ends_with_1_and_what_to_type(ismn: Ismn, folder: Path) -> None:
    ended = ismn("doctor", *RIGHT[:3], "--format", "json")
    assert ended.code == 1
    (code,) = failed(ended.out) & {"MD02", "MD07"}  # so small a net is as well off with another scaling that spreads
    typed = re.findall(r"--(?:mean|std) [\d.,]*\d", found(ended.out)[code]["says"])
    assert len(typed) == 2
    typed = [word for option in typed for word in option.split()]
    assert ismn("doctor", *RIGHT[:3], *typed).code == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("true", True), ("[1, 2]", [1, 2]), ("1e-3", 1e-3), ("a b", "a b"), ("{", "{"), ("", None)],
)
def test_arguments_are_read_as_in_yaml(text: str, value: object) -> None:
    assert key_values("--model-arg", [f"key={text}"]) == {"key": value}


def test_arguments_reach_the_class(ismn: Ismn, folder: Path) -> None:
    ended = ismn("doctor", *RIGHT, "--model-arg", "softmax=true", "--format", "json")
    assert (ended.code, failed(ended.out)) == (1, {"GM08"})


def test_an_expectation_that_is_not_met_fails(ismn: Ismn, folder: Path) -> None:
    accuracy = found(ismn("doctor", *RIGHT, "--format", "json").out)["MD03"]["evidence"]
    wanted = (accuracy["high"] + 1) / 2
    ended = ismn("doctor", *RIGHT, "--expected", str(wanted), "--format", "json")
    assert (ended.code, failed(ended.out)) == ((1, {"MD03"}) if accuracy["high"] < 1 else (0, set()))
    low = ismn("doctor", *RIGHT, "--expected", "0.4", "--format", "json")
    assert (low.code, found(low.out)["MD03"]["verdict"]) == (0, "warn")


def test_the_same_command_twice_tells_the_same(ismn: Ismn, folder: Path) -> None:
    first, second = (ismn("doctor", *RIGHT, "--format", "json", "--limit", "12").out for _ in range(2))
    assert first == second
    assert ismn("doctor", *RIGHT, "--format", "json", "--limit", "12", "--seed", "5").out != first


def test_a_system_of_the_house(ismn: Ismn) -> None:
    assert ismn("train", "--dataset", "cifar10").code == 0
    ended = ismn("doctor", "none", "--dataset", "cifar10", "--format", "json")
    assert (ended.code, failed(ended.out)) == (0, set()), ended.out
    assert "weights: run " in ended.err
    noisy = ismn("doctor", "median", "--dataset", "cifar10", "--format", "json")
    assert found(noisy.out)["RN02"]["verdict"] == "warn"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "no model called 'nothing'"),
        (["net.py"], "It has: Greedy, Net"),
        (["net.py:Net", "--checkpoint", "none.pt"], "no file none.pt"),
        (["net.py:Net", "--model-arg", "softmax"], "KEY=VALUE"),
        (["net.py:Net", "--model-arg", "soft=1"], "unexpected keyword argument"),
        (["net.py:Net", "--mean", "a,b", "--std", "1"], "not a list of numbers"),
        (["net.py:Net", "--expected", "92"], "Write 0.92 or 92%"),
        (["net.py:Net", "--expected", "nan"], "not a share"),
        (["net.py:Net", "--format", "yaml"], "no format called 'yaml'"),
        (["net.py:Net", "--dataset", "mnits"], "no data set called 'mnits'"),
        (["net.py:Net", "--limit", "0"], "limit: should be greater than or equal to 1"),
        (["net.py:Net", "--device", "toaster"], "no device called"),
        (["net.py:Net", "--weights", "released"], "--weights"),
        (["net.py:Greedy"], "KeyError"),
        (["none", "--checkpoint", "net.pt"], "--checkpoint"),
        (["none", "--mean", "0.5", "--std", "0.5"], "--mean"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(ismn: Ismn, folder: Path, arguments: list[str], reason: str) -> None:
    ended = ismn("doctor", *arguments)
    assert ended.code == 2, ended.err
    assert reason in ended.err
    assert "hint: " in ended.err
    assert not ended.out


def test_ctrl_c_while_examining(ismn: Ismn, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ismn_cli.audit import model_checks

    def stopped(*_: Any, **__: Any) -> Callable[[], None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_checks, "open_exam", stopped)
    assert ismn("doctor", *RIGHT).code == 130
