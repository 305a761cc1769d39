"""Every kind of place that a model may come from, with a real file of that kind; and hostile ones."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.passes import can_be_guarded
from ismn_cli.stages.user_models import UserModel, check_answers, is_own, load_user_model, model_options
from ismn_models.shape import Shape

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
CODE = """
import torch
from torch import nn
from parts import relu

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 3)

    def forward(self, x):
        return self.out(relu(self.norm(self.conv(x))).mean((2, 3)))
"""
PARTS = "from torch.nn.functional import relu\n"
Write = Callable[[nn.Module, Path], dict[str, Any]]
"""Writes a module to a folder, and returns how to ask for it."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder, with code in two files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "parts.py").write_text(PARTS)
    yield tmp_path
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name in ("parts", "net") or name.startswith("_ismn_user")]:
        del sys.modules[name]


def net() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    model(torch.rand(8, 3, 8, 8))
    return model.eval()


def load(reference: str, **more: Any) -> UserModel:
    return load_user_model(ModelChoice(reference=reference, **more), 3)


def scripted(model: nn.Module, folder: Path) -> dict[str, Any]:
    torch.jit.script(model).save(folder / "net.pt")
    return {"reference": "net.pt"}


def traced(model: nn.Module, folder: Path) -> dict[str, Any]:
    torch.jit.trace(model, X[:2]).save(folder / "net.pth")
    return {"reference": "net.pth"}


def frozen(model: nn.Module, folder: Path) -> dict[str, Any]:
    torch.jit.freeze(torch.jit.script(model)).save(folder / "net.pt")
    return {"reference": "net.pt"}


def exported(model: nn.Module, folder: Path) -> dict[str, Any]:
    dynamic = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(model, (X,), dynamic_shapes=dynamic), folder / "net.pt2")
    return {"reference": "net.pt2", "unsafe_pickle": True}


def exported_of_four(model: nn.Module, folder: Path) -> dict[str, Any]:
    torch.export.save(torch.export.export(model, (X[:4],)), folder / "four.pt2")
    return {"reference": "four.pt2", "unsafe_pickle": True}


def pickled(model: nn.Module, folder: Path) -> dict[str, Any]:
    torch.save(model, folder / "net.pt")
    return {"reference": "./net.pt", "unsafe_pickle": True}


def to_onnx(model: nn.Module, path: Path, **more: Any) -> dict[str, Any]:
    pytest.importorskip("onnx", reason="writing ONNX files takes onnx")
    torch.onnx.export(model, (X[:4],), str(path), dynamo=False, input_names=["x"], **more)
    return {"reference": path.name}


def onnx(model: nn.Module, folder: Path) -> dict[str, Any]:
    return to_onnx(model, folder / "net.onnx", dynamic_axes={"x": {0: "n"}})


def onnx_of_four(model: nn.Module, folder: Path) -> dict[str, Any]:
    return to_onnx(model, folder / "four.onnx")


WITH_GRADIENTS = [scripted, traced, exported, exported_of_four, pickled]
ONNX = [onnx, onnx_of_four]


@pytest.mark.parametrize("write", WITH_GRADIENTS)
def test_a_file_answers_as_the_module_itself(here: Path, write: Write) -> None:
    model = net()
    found = load(**write(model, here))
    with evaluating(found.net), torch.no_grad():
        for n in (6, 4, 1):
            assert torch.equal(found.net(X[:n]), model(X[:n])), n
    assert found.differentiable


@pytest.mark.parametrize("write", WITH_GRADIENTS)
def test_the_same_image_gets_the_same_logits_and_gradients_every_time(here: Path, write: Write) -> None:
    model = net()
    found = load(**write(model, here)).net
    wanted = slope(model)
    for _ in range(4):  # TorchScript's optimiser would rewrite the program after two passes
        assert torch.equal(slope(found), wanted)


def test_a_frozen_script_answers_as_the_module_but_for_rounding(here: Path) -> None:
    """Freezing folds batch normalisation into the convolution."""
    model = net()
    found = load(**frozen(model, here)).net
    with evaluating(found), torch.no_grad():
        torch.testing.assert_close(found(X), model(X))
    torch.testing.assert_close(slope(found), slope(model))


def slope(model: nn.Module) -> Tensor:
    x = X.clone().requires_grad_()
    model.eval()
    (found,) = torch.autograd.grad(model(x).logsumexp(1).sum(), x)
    return found


@pytest.mark.parametrize("write", ONNX)
def test_onnx_answers_without_gradients(here: Path, write: Write) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    model = net()
    found = load(**write(model, here), mean=(0.5,), std=(0.25,))
    with evaluating(found.net), torch.no_grad():
        for n in (6, 1):
            torch.testing.assert_close(found.net(X[:n]), model((X[:n] - 0.5) / 0.25), rtol=1e-5, atol=1e-6)
    assert not found.differentiable
    assert not found.net(X.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("write", [scripted, frozen, exported_of_four, pickled])
def test_attacks_go_through_in_whole_groups_of_any_size(here: Path, write: Write) -> None:
    """The harness fills groups up, and asks in evaluation mode: nothing of that may fail."""
    found = load(**write(net(), here)).net

    def ascent(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.requires_grad_()
        loss = nn.functional.cross_entropy(model(x), y)
        return (x + torch.autograd.grad(loss, x)[0].sign() / 64).clamp(0, 1).detach()

    crafted = craft_batch(found, ascent, X[:5], torch.zeros(5, dtype=torch.int64), ThreatModel(eps=1 / 32), seed=0)
    assert not crafted.failed.any(), crafted.notes
    assert (crafted.linf > 0).all()


@pytest.mark.parametrize("write", [scripted, traced, frozen, exported, exported_of_four, onnx])
def test_a_model_that_cannot_be_converted_is_searched_in_float32(here: Path, write: Write) -> None:
    """Either bf16 works, with float32's answers nearby, or it is not used: never a crash."""
    found = load(**write(net(), here)).net
    before = found.eval()(X)
    assert can_be_guarded(found, X) in (True, False)
    assert torch.equal(found(X), before)
    assert can_be_guarded(net(), X)


class Once(nn.Module):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("never")

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_what_cannot_be_copied_is_not_guarded() -> None:
    assert not can_be_guarded(Once(), X)


# --- hostile files


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def hostile_pickle(folder: Path) -> str:
    torch.save(Hostile(), folder / "net.pt")
    return "net.pt"


def hostile_old_pickle(folder: Path) -> str:
    torch.save({"model": Hostile()}, folder / "net.pth", _use_new_zipfile_serialization=False)
    return "net.pth"


def hostile_script(folder: Path) -> str:
    """TorchScript whose data is a pickle of Python's kind."""
    scripted(net(), folder)
    return replaced(folder / "net.pt", "data.pkl")


def hostile_constants(folder: Path) -> str:
    scripted(net(), folder)
    return replaced(folder / "net.pt", "constants.pkl")


def hostile_export(folder: Path) -> str:
    exported(net(), folder)
    return replaced(folder / "net.pt2", ".pt", "sample_inputs")


def replaced(path: Path, *signs: str) -> str:
    """Put a hostile pickle in the place of records of a zip file whose names have one of ``signs``."""
    import pickle

    buffer = io.BytesIO()
    torch.save(Hostile(), buffer)
    changed = 0
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in records.items():
            hit = any(sign in name for sign in signs)
            changed += hit
            payload = buffer.getvalue() if name.endswith(".pt") else pickle.dumps(Hostile(), 2)
            target.writestr(name, payload if hit else content)
    assert changed
    return path.name


@pytest.mark.parametrize(
    "write", [hostile_pickle, hostile_old_pickle, hostile_script, hostile_constants, hostile_export]
)
def test_hostile_files_do_not_run(here: Path, write: Callable[[Path], str]) -> None:
    name = write(here)
    with pytest.raises(UsageError) as raised:
        load(name)
    assert not (here / "executed").exists()
    assert raised.value.hint


@pytest.mark.parametrize("write", [hostile_pickle, hostile_export])
def test_these_files_are_hostile_indeed(
    here: Path, write: Callable[[Path], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Told to trust them they run: the test above would be worth nothing otherwise."""
    name = write(here)
    with pytest.raises(UsageError):
        load(name, unsafe_pickle=True)
    assert (here / "executed").exists()
    assert "--unsafe-pickle" in caplog.text


class Scribbler(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.ops.aten.save(x, "executed")
        return x.mean((2, 3))


class Reader(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.from_file("net.py", False, 3, dtype=torch.float32)


class Viewer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.ops.image.read_file("net.py").float().mean()


def test_a_script_that_touches_files_is_refused(here: Path) -> None:
    import torchvision.io  # noqa: F401 - Viewer's operation is its

    for kind in (Scribbler, Reader, Viewer):
        torch.jit.save(torch.jit.script(kind()), "net.pt")
        with pytest.raises(UsageError, match="reads or writes files"):
            load("net.pt")
    torch.jit.save(torch.jit.script(Scribbler()), "net.pt")
    load("net.pt", unsafe_pickle=True).net(X)
    assert (here / "executed").exists()


def test_no_other_operation_of_torch_takes_a_file() -> None:
    """The list of those that are refused is whole: it is over every operation that TorchScript knows."""
    import torchvision  # noqa: F401 - brings operations of its own

    names = {"filename", "path", "file", "fname", "file_name"}
    schemas = torch._C._jit_get_all_schemas()
    takes = {s.name for s in schemas for a in s.arguments if a.name in names and str(a.type) == "str"}
    refused = {"aten::save", "aten::from_file", "image::read_file", "image::write_file", "debugprims::load_tensor"}
    assert {"aten::save", "image::write_file"} <= takes <= refused


def test_a_hostile_checkpoint_runs_only_where_it_is_trusted(here: Path) -> None:
    torch.save({"state_dict": load("net.py:Net").net.state_dict(), "beside": Hostile()}, "weights.pt")
    with pytest.raises(UsageError, match="runs no code") as raised:
        load("net.py:Net", checkpoint="weights.pt")
    assert "--unsafe-pickle" in raised.value.hint
    assert not (here / "executed").exists()
    load("net.py:Net", checkpoint="weights.pt", unsafe_pickle=True)
    assert (here / "executed").exists()


def test_a_whole_pickled_model_as_checkpoint(here: Path) -> None:
    model = load("net.py:Net").net
    sys.modules["net"] = sys.modules[type(model).__module__]
    for content in (model, {"model": model, "epoch": 3}):
        torch.save(content, "weights.pt")
        found = load("net.py:Net", checkpoint="weights.pt", unsafe_pickle=True)
        assert torch.equal(found.net(X), model(X))


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pt2", "net.onnx", "net.ts"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", bytes(300), b"no model at all"])
def test_damaged_files_are_errors_to_act_on(here: Path, name: str, content: bytes) -> None:
    (here / name).write_bytes(content)
    for unsafe in (False, True):
        with pytest.raises(UsageError):
            load(name, unsafe_pickle=unsafe)


@pytest.mark.parametrize(
    ("reference", "more", "reason", "hint"),
    [
        ("gone.pt", {}, "no file gone.pt", "path"),
        ("net.pt", {"checkpoint": "x.pt"}, "whole model", "Leave it away"),
        ("net.pt", {"arguments": {"depth": 3}}, "--model-arg would change nothing", "Leave it away"),
        ("weights.safetensors", {}, "holds tensors", "--checkpoint weights.safetensors"),
        ("tensors.pt", {}, "no TorchScript", "--checkpoint FILE"),
        ("net.pt2", {}, "can run code", "--unsafe-pickle"),
        ("nune", {}, "no model called 'nune'", "Did you mean 'none'"),
        ("torchvision:resnet19", {}, "no model called 'resnet19'", "resnet18"),
        ("timm:resnet19", {}, "no model called 'resnet19'", "resnet18"),
    ],
)
def test_errors_say_what_to_type(here: Path, reference: str, more: dict[str, Any], reason: str, hint: str) -> None:
    if reference.startswith("timm"):
        pytest.importorskip("timm", reason="the extra timm")
    scripted(net(), here)
    (here / "net.pt2").write_bytes(b"x")
    torch.save(net().state_dict(), "tensors.pt")
    with pytest.raises(UsageError) as raised:
        load(reference, **more)
    assert reason in raised.value.message
    assert hint in raised.value.hint


@pytest.mark.parametrize("library", ["timm", "robustbench", "onnxruntime"])
def test_a_missing_extra_says_what_to_install(here: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (here / "net.onnx").write_bytes(b"x")
    reference = {"onnxruntime": "net.onnx"}.get(library, f"{library}:anything")
    with pytest.raises(UsageError) as raised:
        load(reference)
    assert "not installed" in raised.value.message
    assert "pip install" in raised.value.hint


# --- libraries


def test_torchvision_by_name(here: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    model = models.squeezenet1_1(num_classes=3).eval()
    torch.save(model.state_dict(), "weights.pth")
    big = torch.rand(2, 3, 32, 32)
    found = load("torchvision:squeezenet1_1", arguments={"num_classes": 3}, checkpoint="weights.pth")
    assert torch.equal(found.net(big), model(big))
    assert found.origin == "weights.pth"


def test_torchvisions_own_weights_bring_their_normalisation(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models
    from torchvision.models._api import WeightsEnum

    torch.manual_seed(0)
    model = models.squeezenet1_1().eval()
    # The download alone is left out: there is no network in a test.
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *a, **k: model.state_dict())
    big = torch.rand(2, 3, 32, 32)
    found = load("torchvision:squeezenet1_1")
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.equal(found.net(big), model((big - mean) / std))
    assert "IMAGENET1K_V1" in found.origin and "mean 0.485" in found.origin


def test_timm_by_name_and_from_the_hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm")
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"num_classes": 3, "channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1], "stem_width": 8}
    model = timm.create_model("resnet10t", **arguments).eval()
    big = torch.rand(2, 3, 32, 32)
    save_file(model.state_dict(), "weights.safetensors")
    found = load("timm:resnet10t", arguments=arguments, checkpoint="weights.safetensors")
    assert torch.equal(found.net(big), model(big))
    # A cache of the hub as it is after a download, and no network.
    config = {"architecture": "resnet10t", "num_classes": 3, "model_args": arguments}
    config["pretrained_cfg"] = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "first_conv": "conv1.0"}
    revision = "0" * 40
    cached = here / "hub" / "models--me--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    (cached / "snapshots" / revision).mkdir(parents=True)
    (cached / "snapshots" / revision / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), cached / "snapshots" / revision / "model.safetensors")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = load("hf-hub:me/tiny")
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.2, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(found.net(big), model((big - mean) / std))
    assert "mean 0.5,0.4,0.3" in found.origin


def test_robustbench_by_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robustbench = pytest.importorskip("robustbench", reason="not installed", exc_type=ImportError)
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    model = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf]["Rice2020Overfitting"]["model"]().eval()
    torch.save({"state_dict": model.state_dict()}, "weights.pt")
    big = torch.rand(2, 3, 32, 32)
    found = load("robustbench:Rice2020Overfitting", checkpoint="weights.pt")
    assert torch.equal(found.net(big), model(big))
    # As it lies there after a download.
    cached = here / "hub" / "robustbench" / "cifar10" / "Linf"
    cached.mkdir(parents=True)
    (here / "weights.pt").rename(cached / "Rice2020Overfitting.pt")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(here / "hub"))
    assert torch.equal(load("robustbench:Rice2020Overfitting").net(big), model(big))
    assert robustbench.__name__ == "robustbench" and not (here / "models").exists()
    for reference, more in (("robustbench:Rice2020Overfiting", {}), ("robustbench:x", {"dataset": "mnist"})):
        with pytest.raises(UsageError, match="RobustBench has no model"):
            load(reference, arguments=more)


def test_an_installed_plugin_by_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "net:Net", "ismn.models")
    found = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))
    assert is_own("mine")
    assert type(load("mine").net).__name__ == "Net"


# --- identity


def test_what_changes_a_model_changes_its_pin(here: Path) -> None:
    pins = [load("net.py:Net").pin]
    assert load("net.py:Net").pin == pins[0]
    assert load(str(here / "net.py") + ":Net").pin == pins[0]
    torch.save(load("net.py:Net").net.state_dict(), "weights.pt")
    assert load("net.py:Net", checkpoint="weights.pt").pin == pins[0]  # the same tensors from a file
    pins += [load("net.py:Net", mean=(0.5,), std=(0.5,)).pin, load("net.py:Net", mean=(0.4,), std=(0.5,)).pin]
    pins += [load("net.py:Net", arguments={"width": 5}).pin]
    state = torch.load("weights.pt")
    state["out.bias"][0] += 1e-6
    torch.save(state, "weights.pt")
    pins += [load("net.py:Net", checkpoint="weights.pt").pin]
    forget()
    (here / "parts.py").write_text("from torch.nn.functional import leaky_relu as relu\n")
    pins += [load("net.py:Net").pin]  # a file that the file imports
    forget()
    (here / "net.py").write_text(CODE.replace("mean((2, 3))", "amax((2, 3))"))
    pins += [load("net.py:Net").pin]
    assert len(set(pins)) == len(pins)


def test_files_are_pinned_by_their_content(here: Path) -> None:
    scripted(net(), here)
    first = load("net.pt")
    (here / "copy.pt").write_bytes((here / "net.pt").read_bytes())
    assert load("copy.pt").pin == first.pin
    changed = net()
    with torch.no_grad():
        changed[5].bias += 1e-6
    scripted(changed, here)
    assert load("net.pt").pin != first.pin


# --- what a model answers


class Says(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda x: x.mean((2, 3))[:, :2], r"\[4, 2\]"),
        (lambda x: torch.zeros(4, 1000), r"\[4, 1000\]"),
        (lambda x: torch.zeros(3), r"\[3\]"),
        (lambda x: x, r"\[4, 3, 8, 8\]"),
        (lambda x: (x.mean((2, 3)),), "a tuple"),
        (lambda x: {"logits": x}, "a dict"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: x.mean((2, 3)).long(), "whole numbers"),
    ],
)
def test_answers_that_are_no_logits_are_told_before_anything_long(answer: Callable[[Tensor], Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_answers(Says(answer), X[:4], Shape(3, 3, 8), "mine.py:Net")


def test_logits_for_the_classes_pass_whatever_their_values() -> None:
    check_answers(Says(lambda x: x.mean((2, 3)) * torch.nan), X[:4], Shape(3, 3, 8), "mine.py:Net")


TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), min_size=1, max_size=20)
VALUE = st.one_of(st.integers(-9, 9), st.booleans(), st.floats(-2, 2, allow_nan=False), st.lists(st.integers(0, 9)))


@given(reference=TEXT, checkpoint=TEXT, arguments=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUE))
@settings(deadline=None, max_examples=60)
def test_the_options_told_to_type_give_the_same_choice(
    reference: str, checkpoint: str, arguments: dict[str, Any]
) -> None:
    """Names are hostile text: the command that an error tells must survive a shell."""
    import shlex

    from ismn_cli.cli.options import model_choice

    choice = ModelChoice(reference=reference, checkpoint=Path(checkpoint), arguments=arguments, mean=(0.5,), std=(0.2,))
    words = shlex.split(model_options(choice))
    pairs = list(zip(words[::2], words[1::2], strict=True))
    asked = dict(pairs)
    repeated = [value for option, value in pairs if option == "--model-arg"]
    read = model_choice(asked["--model"], repeated, Path(asked["--checkpoint"]), asked["--mean"], asked["--std"])
    assert read is not None
    assert ModelChoice.model_validate(read) == choice
