"""What pins a live module or function: everything that could change what it does, and nothing else."""

from __future__ import annotations

import functools
import importlib
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ismn_cli.stages.live_pins import pin, settings_pin

NET = """
import math
import torch
from torch import nn

GAIN = 2.0

def scaled(x):
    return GAIN * x

class Base(nn.Module):
    def head(self, x):
        return x.flatten(1)

class Net(Base):
    share: float = 1.0
    table = {"a": [1, 2]}

    def __init__(self, settings=None, call=None):
        super().__init__()
        self.out = nn.Linear(4, 3)
        self.settings, self.call = settings, call

    def forward(self, x):
        inner = [scaled(part) for part in (x,)]
        return self.out(self.head(inner[0])) * self.share
"""


def made(source: str = NET, *arguments: Any) -> nn.Module:
    """As from a notebook: there is no file."""
    module = types.ModuleType("__main__")
    exec(source, vars(module))
    torch.manual_seed(0)
    net: nn.Module = module.Net(*arguments)
    return net


SAME = pin(made()).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GAIN = 2.0", "GAIN = 3.0"),
        ("GAIN * x", "x * GAIN"),
        ("flatten(1)", "flatten(1) * 1"),
        ("* self.share", "+ self.share"),
        ("share: float = 1.0", "share: float = 2.0"),
        ("[1, 2]", "[1, 3]"),
        ("nn.Linear(4, 3)", "nn.Linear(4, 3, bias=False)"),
        ("for part in (x,)", "for part in (x, x)"),
        ("inner[0]", "inner[-1]"),
    ],
)
def test_a_change_of_code_is_another_pin(old: str, new: str) -> None:
    assert NET.count(old) == 1
    assert pin(made(NET.replace(old, new))).digest != SAME


def test_the_same_is_the_same_and_comments_change_nothing() -> None:
    assert pin(made()).digest == SAME
    assert pin(made(NET + "\n# a comment\nUNUSED = 3\n")).digest == SAME
    assert pin(made()).loose == ()
    assert pin(made().train()).digest == SAME, "the mode is the harness's"


SETTINGS: list[tuple[Any, Any]] = [
    (1, 2),
    (1, 1.0),
    (True, 1),
    ("a", b"a"),
    ([1, 2], (1, 2)),
    ({1, 2}, {1, 3}),
    ({"a": 1}, {"b": 1}),
    (np.arange(3), np.arange(3.0)),
    (torch.zeros(2), torch.zeros(3)),
    (torch.float32, torch.float64),
    (Path("a"), Path("b")),
    (functools.partial(torch.add, 1), functools.partial(torch.add, 2)),
    (lambda x: x + 1, lambda x: x + 2),
    (lambda x, k=1: x, lambda x, k=2: x),
    (torch.relu, torch.tanh),
    (nn.ReLU(), nn.Tanh()),
    ([nn.Linear(1, 1)], [nn.Linear(2, 1)]),
]


@pytest.mark.parametrize(("one", "other"), SETTINGS)
def test_a_setting_is_part_of_it(one: Any, other: Any) -> None:
    torch.manual_seed(0)
    first, second = pin(made(NET, one)), pin(made(NET, other))
    assert first.digest != second.digest
    assert first.loose == second.loose == ()
    assert pin(made(NET, one)).digest == first.digest


def test_weights_and_hooks() -> None:
    net = made()
    with torch.no_grad():
        net.out.bias[1] += 1e-7
    assert pin(net).digest != SAME
    hooked = made()
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert pin(hooked).digest != SAME


@pytest.mark.parametrize("thing", [io.StringIO(), np.random.default_rng(0), object(), (x for x in ())])
def test_what_is_not_known_is_never_the_same(thing: Any) -> None:
    one, two = pin(made(NET, thing)), pin(made(NET, thing))
    assert one.digest != two.digest
    assert one.loose == (f"it.settings (a {type(thing).__name__})",)


def test_what_leads_back_to_itself_ends() -> None:
    ring: list[Any] = []
    ring.append(ring)

    def recursive(n: int) -> int:
        return recursive(n - 1) if n else 0

    assert pin(made(NET, ring)).digest == pin(made(NET, ring)).digest
    assert pin(recursive).digest == pin(recursive).digest


def test_helpers_in_files_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    source = "import pinned_helper\n" + NET.replace("GAIN * x", "pinned_helper.double(x)")
    digests = []
    for number in (2, 3):
        (tmp_path / "pinned_helper.py").write_text(f"def double(x):\n    return {number} * x\n")
        monkeypatch.delitem(sys.modules, "pinned_helper", raising=False)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
        digests.append(pin(made(source)))
        sys.dont_write_bytecode = kept
    assert digests[0].digest != digests[1].digest
    assert digests[0].loose == ()


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout()), lambda: nn.ReLU()])
def test_torchs_own_modules(make: Callable[[], nn.Module]) -> None:
    pins = []
    for _ in range(2):
        torch.manual_seed(0)
        pins.append(pin(make()))
    assert pins[0] == pins[1]


@pytest.mark.filterwarnings("ignore")
def test_torchscript() -> None:
    one = torch.jit.trace(made(), torch.rand(1, 4))
    other = torch.jit.trace(made(NET.replace("GAIN = 2.0", "GAIN = 3.0")), torch.rand(1, 4))
    assert pin(one).digest == pin(one).digest != pin(other).digest


class Tuned(nn.Module):
    """Numbers and tensors that no state dict shows, in a part of it."""

    def __init__(self, gain: float = 1.0, taps: tuple[float, ...] = (1.0, 2.0), held: object = None) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2))
        self.inner.gain, self.inner.taps, self.held = gain, [torch.tensor(taps)], held


def test_settings_are_pinned_and_weights_are_not() -> None:
    torch.manual_seed(0)
    first, again = Tuned(), Tuned()
    assert settings_pin(first) == settings_pin(again) != ""
    assert settings_pin(first.train()) == settings_pin(again.eval())
    others = {settings_pin(Tuned(gain=2.0)), settings_pin(Tuned(taps=(1.0, 3.0))), settings_pin(Tuned(held="a"))}
    assert len(others | {settings_pin(first)}) == 4
    assert settings_pin(Tuned(held=io.StringIO())) == ""
