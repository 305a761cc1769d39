"""A classifier of the user's own, attacked, defended and rebuilt from the shell, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_world
import torch
from torch import nn

from ismn_cli.core.store import Store
from ismn_cli.stages.resolve import run_source
from ismn_models.shape import Shape

CODE = """
import torch
from torch import nn

print("hello from the user's code")

class Net(nn.Module):
    def __init__(self, classes=3, scale=1.0, loud=False):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, classes)
        self.scale, self.loud = scale, loud

    def forward(self, x):
        if self.loud:
            print("a pass")
        return self.out(self.norm(self.conv(x * self.scale)).relu().mean((2, 3)))

def make():
    return Net()

def softmax():
    return nn.Sequential(Net(), nn.Softmax(1))

class Wild(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")

class Dropping(Net):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))
"""
Ismn = Callable[..., Any]
OWN = ("--model", "models.mine:Net", "--checkpoint", "net.pt")
QUICK = ("--method", "fgsm", "--eps", "0.1", "--limit", "30", "--dataset", "cifar10")


def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net, images = small_world.Net(3, 3, 6), small_world.load("train")
    config = small_world.PlainConfig(lr=0.05)
    stage = small_world.Descent("base", net, config, small_world.build_plain(config, Shape(3, 3), net))
    for epoch in range(12):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for x, y in images.take(order).batches(16):
            stage.step(x, y, torch.arange(len(x)), 0.0)
    return net.eval().state_dict()


STATE = trained()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder with a ``models`` package of their own, and weights."""
    place = tmp_path / "own"
    (place / "models").mkdir(parents=True)
    (place / "models" / "__init__.py").write_text("")
    (place / "models" / "mine.py").write_text(CODE)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}}, place / "net.pt")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield place
    forget()


def forget() -> None:
    """Let the user's code be imported anew, as in another process."""
    for name in list(sys.modules):
        if name.split(".")[0] == "models" or name.startswith("_ismn_user"):
            del sys.modules[name]


def newest(store: Store, kind: str) -> Any:
    return next(run for run in store.runs() if run.record.kind == kind)


def cells(store: Store) -> list[Any]:
    return [store.cell(key) for key in newest(store, "attack").record.cells]


def right(store: Store) -> int:
    result = cells(store)[0]
    return sum(p == y for p, y in zip(result.clean.predicted, result.labels, strict=True))


def test_one_command_attacks_it(ismn: Ismn, folder: Path, store: Store) -> None:
    ended = ismn("attack", *OWN, *QUICK)
    assert ended.code == 0, ended.err
    assert "none: models.mine:Net, net.pt" in ended.err
    assert re.search(r"doctor: nothing against models.mine:Net on 30 images", ended.err)
    assert "hello from" not in ended.out
    net = small_world.Net(3, 3, 6).eval()
    net.load_state_dict(STATE)
    images = small_world.load("test").select(30, 0)
    with torch.no_grad():
        assert right(store) == int((net(images.floats()).argmax(1) == images.labels).sum()) > 20


def test_the_doctor_is_asked_once_a_store(ismn: Ismn, folder: Path, store: Store) -> None:
    assert "doctor:" in ismn("attack", *OWN, *QUICK).err
    again = ismn("attack", *OWN, *QUICK)
    assert "doctor:" not in again.err
    assert "2 of 2 cells were stored already" in again.err


def test_every_way_to_name_it_gives_the_same_figures(ismn: Ismn, folder: Path, store: Store) -> None:
    figures = set()
    for reference in ("models.mine:Net", "models.mine:make", "models/mine.py:Net", str(folder / "models/mine.py:make")):
        assert ismn("attack", "--model", reference, "--checkpoint", "net.pt", *QUICK).code == 0
        found = cells(store)[1]
        figures.add((found.attacked.predicted, found.linf))
    assert len(figures) == 1


def test_what_the_model_prints_is_no_result(ismn: Ismn, folder: Path, store: Store) -> None:
    ended = ismn("attack", *OWN, "--model-arg", "loud=true", *QUICK)
    assert ended.code == 0
    assert "a pass" in ended.err and "a pass" not in ended.out


@pytest.mark.parametrize(
    ("more", "code", "remedy"),
    [
        (("--mean", "0.9,0,0", "--std", "0.05,1,1"), "MD02|MD03|MD07|EV05", "--mean"),
        (("--model", "models.mine:softmax"), "GM08", "softmax"),
        (("--model", "models.mine:Wild"), "MD06", ""),
        (("--model", "models.mine:Dropping"), "MD01|RN02", ""),
    ],
)
def test_the_doctor_stops_what_would_mean_nothing(
    ismn: Ismn, folder: Path, store: Store, more: tuple[str, ...], code: str, remedy: str
) -> None:
    inner = {f"0.{name}": tensor for name, tensor in STATE.items()} if "softmax" in more[-1] else STATE
    torch.save(inner, folder / "net.pt")
    for _ in range(2):  # the second time the finding comes from the store
        ended = ismn("attack", *OWN, *more, *QUICK)
        assert ended.code == 2
        assert re.search(rf"The doctor stops models.mine:.*({code})", ended.err)
        assert "--skip-doctor" in ended.err
        assert not store.runs()
    command = re.search(r"Examine it: ismn (doctor .*?)\. To go on", ended.err)
    assert command is not None
    assert ismn(*command[1].split(), "--limit", "30").code == 1
    assert ismn("attack", *OWN, *more, *QUICK, "--skip-doctor").code == 0


@pytest.mark.parametrize(
    ("more", "reason", "hint"),
    [
        (("--model", "models.mine:Nat"), "no 'Nat'", "Did you mean 'Net'"),
        (("--model", "models.mime:Net"), "models.mime", "installed here"),
        (("--model-arg", "classes=7"), r"\[4, 7\]|does not fit", "--model-arg"),
        (("--checkpoint", "gone.pt"), "no file", "--checkpoint"),
        (("--mean", "0.5"), "belong together", "--std"),
        (("--mean", "a,b,c", "--std", "1"), "not a list of numbers", "--mean"),
        (("--model-arg", "classes"), "KEY=VALUE", "--model-arg"),
        (("--defence", "magnet"), "no magnet around models.mine:Net", "ismn train --system magnet"),
        (("--model", "magnet"), "system of ismn's own|no weights", ""),
    ],
)
def test_errors_say_what_to_type_before_any_work(
    ismn: Ismn, folder: Path, store: Store, more: tuple[str, ...], reason: str, hint: str
) -> None:
    ended = ismn("attack", *OWN, *more, *QUICK)
    assert ended.code == 2
    assert re.search(reason, ended.err), ended.err
    assert hint in ended.err
    assert not store.runs()


@pytest.mark.parametrize("option", [("--checkpoint", "x"), ("--mean", "0.5"), ("--unsafe-pickle",), ("--skip-doctor",)])
@pytest.mark.parametrize("command", ["attack", "train"])
def test_options_of_a_model_without_one_are_refused(ismn: Ismn, folder: Path, command: str, option: Any) -> None:
    ended = ismn(command, *option)
    assert ended.code == 2
    assert f"{option[0]} is for a model of your own" in ended.err


def test_every_system_stands_on_it(ismn: Ismn, folder: Path, store: Store) -> None:
    told = ismn("attack", *OWN, *QUICK, "--defence", "none,median,magnet")
    command = re.search(r"hint: Train it first: ismn (train .*)", told.err)
    assert command is not None
    ended = ismn(*command[1].split(), "--epochs", "1")
    assert ended.code == 0, ended.err
    header = run_source(newest(store, "train")).header
    assert header.model is not None and header.model.folder == folder
    ended = ismn("attack", *OWN, *QUICK, "--defence", "none,median,magnet")
    assert ended.code == 0, ended.err
    bases = {result.cell.classifier.weights for result in cells(store)}
    assert bases == {header.base}
    assert ismn("defend", "--defence", "none,magnet").code == 0


def test_a_trained_defence_is_rebuilt_from_anywhere(
    ismn: Ismn, folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ismn("train", "--system", "ismn", *OWN, "--epochs", "1").code == 0
    run = newest(store, "train").record.id
    assert ismn("attack", "--defence", "ismn", "--weights", run, *QUICK).code == 0
    first = cells(store)
    monkeypatch.chdir(tmp_path)
    forget()
    assert ismn("attack", "--defence", "ismn", "--weights", run, *QUICK).code == 0
    assert cells(store) == first
    monkeypatch.chdir(folder)
    forget()
    (folder / "models" / "mine.py").write_text(CODE.replace("x * self.scale", "x * 0.9"))
    ended = ismn("attack", "--defence", "ismn", "--weights", run, *QUICK)
    assert ended.code == 2
    assert "have changed since" in ended.err and "ismn train --system ismn --model models.mine:Net" in ended.err
    forget()
    ended = ismn("attack", *OWN, "--defence", "ismn", *QUICK)
    assert ended.code == 2 and "no ismn around" in ended.err


def test_a_changed_file_is_another_cell(ismn: Ismn, folder: Path, store: Store) -> None:
    assert ismn("attack", *OWN, *QUICK).code == 0
    before = cells(store)
    (folder / "models" / "mine.py").write_text(CODE.replace("x * self.scale", "x * 0.5"))
    forget()
    ended = ismn("attack", *OWN, *QUICK, "--skip-doctor")
    assert ended.code == 0 and "stored already" not in ended.err
    after = cells(store)
    assert {r.cell.key() for r in before}.isdisjoint(r.cell.key() for r in after)


def test_a_training_is_not_repeated_and_other_bases_are_refused(ismn: Ismn, folder: Path, store: Store) -> None:
    command = ("train", "--system", "ddsa", *OWN, "--epochs", "1")
    assert ismn(*command).code == 0
    assert "finished already" in ismn(*command).err
    for other in (("--system", "classifier"), ("--classifier", "fresh")):
        ended = ismn("train", *OWN, *other)
        assert ended.code == 2 and "would make another" in ended.err


def test_a_recipe_takes_it_too(ismn: Ismn, folder: Path, store: Store) -> None:
    recipe = {
        "dataset": {"limit": 30}, "defence": ["none", "magnet"], "attack": {"method": "fgsm", "eps": 0.1},
        "model": {"reference": "models.mine:Net"}, "training": {"m": {"system": "magnet", "epochs": 1}},
    }  # fmt: skip
    (folder / "mine.yaml").write_text(json.dumps(recipe))
    ended = ismn("run", "./mine.yaml", "model.checkpoint=net.pt")
    assert ended.code == 0, ended.err
    assert "stored already" in ismn("run", "./mine.yaml", "model.checkpoint=net.pt").err
    assert ismn("run", "./mine.yaml", "model.checkpoint=net.pt", "--plan").code == 0
    ended = ismn("run", "./mine.yaml", "model.checkpont=net.pt")
    assert ended.code == 2 and "did you mean 'checkpoint'" in ended.err


def test_it_is_rerun_from_its_record(ismn: Ismn, folder: Path, store: Store) -> None:
    assert ismn("attack", *OWN, *QUICK).code == 0
    run = newest(store, "attack")
    assert ismn("rerun", str(run.folder / "record.json")).code == 0
    assert ismn("audit", "--run", run.record.id, "--limit", "20").code in (0, 1)


def test_an_onnx_file_is_for_black_boxes(ismn: Ismn, folder: Path, store: Store) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    pytest.importorskip("onnx", reason="writing ONNX files takes onnx")
    net = small_world.Net(3, 3, 6).eval()
    net.load_state_dict(STATE)
    torch.onnx.export(net, (torch.rand(4, 3, 8, 8),), "net.onnx", dynamo=False)
    ended = ismn("attack", "--model", "net.onnx", *QUICK)
    assert ended.code == 2
    assert "fgsm needs gradients" in ended.err and "--knowledge black --method square" in ended.err
    quick = (*QUICK[2:], "--method", "square", "--param", "n_queries=20")
    ended = ismn("attack", "--model", "net.onnx", "--knowledge", "black", *quick, "--defence", "none,median")
    assert ended.code == 0, ended.err
    assert not any(any(result.failed) for result in cells(store))
    assert ismn("train", "--system", "ddsa", "--classifier", "fresh", "--epochs", "1").code == 0
    transfer = ("--knowledge", "black", "--transfer", "ddsa")
    assert ismn("attack", "--model", "net.onnx", *QUICK, *transfer).code == 0
    ended = ismn("train", "--system", "magnet", "--model", "net.onnx")
    assert ended.code == 2 and "no gradients" in ended.err


def test_a_script_is_attacked_and_defended(ismn: Ismn, folder: Path, store: Store) -> None:
    net = small_world.Net(3, 3, 6).eval()
    net.load_state_dict(STATE)
    torch.jit.trace(net, torch.rand(2, 3, 8, 8)).save("net.ts")
    assert ismn("train", "--system", "ismn", "--model", "net.ts", "--epochs", "1").code == 0
    ended = ismn("attack", "--model", "net.ts", *QUICK, "--defence", "none,ismn", "--knowledge", "adaptive,gray")
    assert ended.code == 0, ended.err
    assert not any(any(result.failed) for result in cells(store))


def test_a_classifier_of_ismns_own_by_its_name(ismn: Ismn, small: Path, store: Store) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "3").code == 0
    run = newest(store, "train").record.id
    ended = ismn("attack", "--model", f"none@{run}", "--defence", "none,median", *QUICK)
    assert ended.code == 0, ended.err
    assert ismn("train", "--system", "magnet", "--model", "none", "--epochs", "1").code == 0
    assert ismn("attack", "--model", "none", "--defence", "magnet", *QUICK).code == 0
    ended = ismn("attack", "--model", "magnet", *QUICK)
    assert ended.code == 2 and "--defence magnet" in ended.err


def test_from_a_process_in_a_folder_with_a_models_package(folder: Path, small: Path, tmp_path: Path) -> None:
    """As a new user would: nothing of the test's own process is there to help."""
    world = Path(small_world.__file__)
    own = os.environ | {"SMALL_WORLD_RELEASED": str(small), "ISMN_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(world), "attack", *OWN, *QUICK]
    ended = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "none: models.mine:Net" in ended.stderr
    assert isinstance(nn.Module, type)
