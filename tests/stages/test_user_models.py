"""Models of the user's own: found, built, loaded, normalised; and what is said where that fails."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.references import is_reference, load_attribute
from ismn_cli.engine.normalised import Normalised
from ismn_cli.stages.checkpoints import PREFIXES, WRAPPERS, load_checkpoint
from ismn_cli.stages.user_models import load_user_model

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, bias=True):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, bias=bias), nn.BatchNorm2d(width))
        self.width = width

    def forward(self, x):
        return self.body(x).mean((2, 3))

def make(width: int):
    return Net(width)

def crash():
    return 1 / 0

ready = Net(2)
number = 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a file, a ``models`` package and a module of the user's own; it is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "mine.py").write_text(CODE)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("models", "broken", "helped", "helper") or name.startswith("_ismn_user"):
            del sys.modules[name]


def build(reference: str, **more: Any) -> Any:
    return load_user_model(ModelChoice(reference=reference, **more), 3).net


def test_a_reference_is_told_from_a_name() -> None:
    assert all(map(is_reference, ["net.py:Net", "models.mine:Net", "net.py", "a/b"]))
    assert not any(map(is_reference, ["none", "magnet-diverse", "at"]))


@pytest.mark.parametrize("place", ["net.py", "./net.py", "models/mine.py", "models.mine"])
def test_classes_functions_and_models_are_found(here: Path, place: str) -> None:
    assert build(f"{place}:Net").width == 4
    assert build(f"{place}:Net", arguments={"width": 5, "bias": False}).width == 5
    assert build(f"{place}:make", arguments={"width": 6}).width == 6
    assert build(f"{place}:ready").width == 2


def test_an_absolute_path_and_one_from_the_home_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert build(f"{here / 'net.py'}:Net").width == 4
    monkeypatch.setenv("HOME", str(here))
    assert build("~/net.py:Net").width == 4


def test_a_file_imports_its_neighbours(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("far")
    (folder / "next_to_it.py").write_text(CODE)
    (folder / "helped.py").write_text("from next_to_it import Net\n")
    assert build(f"{folder / 'helped.py'}:Net").width == 4


def test_a_class_is_put_in_evaluation_mode_and_the_rest_left_as_given(here: Path) -> None:
    assert not build("net.py:Net").training
    assert build("net.py:make", arguments={"width": 3}).training
    assert build("net.py:ready").training
    assert build("net.py:ready", mean=(0.5,), std=(0.5,)).training


def test_normalisation_is_put_inside(here: Path) -> None:
    x = torch.rand(2, 3, 5, 5)
    model = build("net.py:ready", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0)).eval()
    assert isinstance(model, Normalised)
    inner = load_attribute("net.py:ready")
    inner.load_state_dict(model.model.state_dict())
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(model(x), inner.eval()((x - mean) / std))


@pytest.mark.parametrize(
    ("reference", "more", "reason", "hint"),
    [
        ("net.py", {}, "does not say which", "It has: Net, crash, make, ready"),
        ("net.py:", {}, "does not say which", "Net"),
        ("nothing.py:Net", {}, "no file nothing.py", "current folder"),
        ("no.such.module:Net", {}, "ModuleNotFoundError", "installed here"),
        ("folder/thing:Net", {}, "neither", "path/to/file.py"),
        ("net.py:Nat", {}, "no 'Nat'", "Did you mean 'Net'"),
        ("net.py:number", {}, "int, not a model", "class"),
        ("net.py:crash", {}, "ZeroDivisionError", "line 17"),
        ("net.py:make", {}, "missing a required argument: 'width'", "(width: int)"),
        ("net.py:Net", {"arguments": {"depth": 3}}, "unexpected keyword argument 'depth'", "width=4"),
        ("net.py:ready", {"arguments": {"width": 3}}, "would change nothing", "Leave"),
        ("builtins:dict", {}, "gives a dict", "class"),
        ("net.py:Net", {"mean": (0.5,)}, "belong together", "--std"),
        ("net.py:Net", {"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "2 numbers for 3", "a channel"),
        ("net.py:Net", {"mean": (123.0,), "std": (58.0,)}, "not of pixels", "255"),
        ("net.py:Net", {"mean": (0.5,), "std": (0.0,)}, "not of pixels", "255"),
        ("net.py:Net", {"mean": (float("nan"),), "std": (1.0,)}, "not of pixels", "255"),
    ],
)
def test_errors_say_what_to_type(
    here: Path, reference: str, more: dict[str, Any], reason: str, hint: str
) -> None:
    with pytest.raises(UsageError) as raised:
        build(reference, **more)
    assert reason in raised.value.message
    assert hint in raised.value.hint


@pytest.mark.parametrize("line", ["raise SystemExit(3)", "import no_such_thing", "def (", "1 / 0"])
def test_a_file_that_fails_is_the_users_to_mend(here: Path, line: str) -> None:
    (here / "broken.py").write_text(line + "\n")
    with pytest.raises(UsageError, match=r"broken.py fails"):
        build("broken.py:Net")


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def filled(width: int = 4) -> nn.Module:
    torch.manual_seed(5)
    model = net(width)
    model(torch.rand(4, 3, 8, 8))
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@given(
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=2),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=2),
    beside=st.dictionaries(st.sampled_from(["epoch", "best_acc", "optimizer"]), st.integers()),
)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_in_any_usual_wrapping(
    tmp_path: Path, wrappers: list[str], prefixes: list[str], beside: dict[str, int]
) -> None:
    source, target = filled(), net()
    content: Any = {"".join(prefixes) + name: tensor for name, tensor in source.state_dict().items()}
    for wrapper in wrappers:
        content = {wrapper: content} | beside
    torch.save(content, tmp_path / "weights.pt")
    load_checkpoint(target, tmp_path / "weights.pt")
    assert same(source, target)


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    source, target = filled().half(), net()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_checkpoint(target, tmp_path / "weights.safetensors")
    assert same(source.float(), target)


def test_a_checkpoint_of_before_batches_were_counted(tmp_path: Path) -> None:
    source, target = filled(), net()
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    load_checkpoint(target, tmp_path / "old.pt")
    assert torch.equal(target.state_dict()["1.running_mean"], source.state_dict()["1.running_mean"])


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_hostile_pickle_does_not_run(here: Path, kind: str) -> None:
    path = here / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Attack()}))
    else:
        torch.save({"state_dict": Attack()}, path)
    with pytest.raises(UsageError, match="runs no code"):
        load_checkpoint(net(), path)
    assert not (here / "executed").exists()


def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(filled(), tmp_path / "model.pt")
    with pytest.raises(UsageError) as raised:
        load_checkpoint(net(), tmp_path / "model.pt")
    assert "model.state_dict()" in raised.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: {k: v for k, v in state.items() if k != "0.bias"}, "it lacks 0.bias"),
        (lambda state: state | {"fc.weight": torch.zeros(1)}, "the model has no fc.weight"),
        (lambda state: state | {"0.bias": torch.zeros(7)}, "0.bias is 7 there and 4 in the model"),
        (lambda state: {"other": torch.zeros(1)}, "and 2 more"),
    ],
)
def test_weights_of_another_model_change_nothing(tmp_path: Path, change: Any, reason: str) -> None:
    torch.save(change(filled().state_dict()), tmp_path / "weights.pt")
    target, before = net(), net()
    before.load_state_dict(target.state_dict())
    with pytest.raises(UsageError) as raised:
        load_checkpoint(target, tmp_path / "weights.pt")
    assert reason in raised.value.message
    assert same(target, before)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut off", bytes(200)])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_damaged_files(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="weights"):
        load_checkpoint(net(), tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], 7, {"model": {"epoch": 1}}])
def test_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="state dict"):
        load_checkpoint(net(), tmp_path / "weights.pt")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        load_checkpoint(net(), tmp_path / "weights.pt")
