"""What an attack of the user's own does to what it is lent: found, named, put back; nobody is blamed for nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ismn_cli.core.specs import ThreatModel
from ismn_cli.engine import craft
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_cli.engine.groups import SIZE
from ismn_cli.engine.guard import settings_kept

THREAT = ThreatModel(eps=0.1)
Y = torch.arange(20) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.out = nn.Linear(4, 3)
        self.register_buffer("secret", torch.tensor([1.0, float("nan")]), persistent=False)
        self.sizes = [1]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.conv(x))).relu().mean((2, 3)))


class Foreign:
    """An attack of the user's own."""

    foreign = True

    def __init__(self, act: Callable[[nn.Module], object]) -> None:
        self.act = act

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.act(model)
        return x + 0.05


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


def inner(model: nn.Module) -> Net:
    return next(part for part in model.modules() if isinstance(part, Net))


def as_it_is(net: Net) -> dict[str, Any]:
    """Return all that an attack could reach of the net, in a form to compare."""
    found: dict[str, Any] = {"settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())}
    found |= {name: (t.tolist(), t.requires_grad, t.grad) for name, t in net.named_parameters()}
    found |= {name: str(t.tolist()) for name, t in net.named_buffers()}
    found |= {f"{name}?": (part.training, type(part).__name__) for name, part in net.named_modules()}
    found |= {f"{name} hooks": (len(p._forward_hooks), len(p._backward_hooks)) for name, p in net.named_modules()}
    return found | {"own": sorted(vars(net)), "forward": "forward" in vars(net.conv)}


def data(model: nn.Module) -> None:
    inner(model).conv.weight.data.mul_(2)


def no_grad(model: nn.Module) -> None:
    with torch.no_grad():
        inner(model).out.bias += 1


def swapped(model: nn.Module) -> None:
    inner(model).out.weight.data = torch.zeros(3, 4)


def reshaped(model: nn.Module) -> None:
    inner(model).out.weight.data = torch.zeros(7, 4)


def fine_tuned(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model(torch.rand(4, 3, 6, 6)).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()


def statistics(model: nn.Module) -> None:
    model.train()
    model(torch.rand(8, 3, 6, 6))
    model.eval()


HARM: list[tuple[Callable[[nn.Module], object], str]] = [
    (data, "changed the model's weights (model.conv.weight)"),
    (no_grad, "changed the model's weights (model.out.bias)"),
    (swapped, "changed the model's weights (model.out.weight)"),
    (reshaped, "changed the model's weights (model.out.weight)"),
    (fine_tuned, "changed the model's weights (model.conv.weight, model.conv.bias, model.norm.weight and 3 more)"),
    (fine_tuned, "left gradients on the model's weights"),
    (statistics, "changed the model's weights (model.norm.running_mean"),
    (lambda m: inner(m).secret.zero_(), "changed the model's weights (model.secret)"),
    (lambda m: setattr(inner(m).conv, "weight", nn.Parameter(torch.zeros(4, 3, 3, 3))), "replaced weights of model"),
    (lambda m: setattr(inner(m), "out", nn.Identity()), "replaced modules of model"),
    (lambda m: setattr(inner(m).conv, "forward", torch.zeros_like), "replaced forward of model.conv"),
    (lambda m: m.train(), "left the model in training mode"),
    (lambda m: inner(m).drop.train(), "left the model in training mode"),
    (lambda m: inner(m).out.weight.requires_grad_(True), "left gradients on the model's weights (model.out.weight)"),
    (lambda m: inner(m).out.register_forward_hook(lambda *_: torch.zeros(16, 3)), "left hooks on model.out"),
    (lambda m: m.register_forward_pre_hook(lambda *_: None), "left hooks on the model"),
    (lambda m: torch.set_grad_enabled(False), "changed torch's grad mode"),
    (lambda m: torch.set_default_dtype(torch.float64), "changed torch's default dtype"),
    (lambda m: torch.set_default_device("meta"), "changed torch's default device"),
    (lambda m: torch.set_num_threads(torch.get_num_threads() + 1), "changed torch's number of threads"),
    (lambda m: torch.use_deterministic_algorithms(True), "changed torch's deterministic algorithms"),
    (lambda m: torch.set_autocast_enabled("cpu", True), "changed torch's autocast"),
    (lambda m: torch.autograd.set_detect_anomaly(True), "changed torch's anomaly mode"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """A test that fails leaves the next ones in peace."""
    with settings_kept():
        yield


def attacked(net: Net, attack: Any, x: Tensor) -> Crafted:
    return craft_batch(net, attack, x, Y, THREAT, 0)


@pytest.mark.parametrize(("act", "says"), HARM, ids=[says.split(" (")[0] for _, says in HARM])
def test_harm_is_named_and_undone_and_its_samples_have_failed(
    net: Net, x: Tensor, act: Callable[[nn.Module], object], says: str
) -> None:
    before, answers = as_it_is(net), net(x)
    crafted = attacked(net, Foreign(act), x)
    assert as_it_is(net) == before
    assert torch.equal(net(x), answers)
    assert crafted.failed.all()
    assert torch.equal(crafted.adversarial, x)
    (note,) = (note for note in crafted.notes if says in note)
    assert note.startswith("the attack ") and note.endswith("on 20 samples")
    assert not any("not finite" in note for note in crafted.notes)


@pytest.mark.parametrize(("act", "says"), HARM, ids=[says.split(" (")[0] for _, says in HARM])
def test_what_comes_after_is_as_if_it_had_never_been(
    net: Net, x: Tensor, act: Callable[[nn.Module], object], says: str
) -> None:
    def descent(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        point = (x + 0.05 * torch.rand_like(x)).requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)
        return (x + 0.05 * slope.sign()).clamp(0, 1)

    alone = attacked(net, descent, x)
    attacked(net, Foreign(act), x)
    after = attacked(net, descent, x)
    assert torch.equal(after.adversarial, alone.adversarial)
    assert (after.notes, after.forwards, after.backwards) == (alone.notes, alone.forwards, alone.backwards)


def test_harm_to_one_group_costs_that_group_alone(net: Net, x: Tensor) -> None:
    def second(model: nn.Module) -> None:
        calls.append(1)
        if len(calls) == 2:
            data(model)

    calls: list[int] = []
    crafted = attacked(net, Foreign(second), x)
    assert crafted.failed.tolist() == [False] * SIZE + [True] * SIZE + [False] * (20 - 2 * SIZE)
    assert crafted.notes == ("the attack changed the model's weights (model.conv.weight) on 8 samples",)


def test_harm_before_a_crash_is_undone_too(net: Net, x: Tensor) -> None:
    def act(model: nn.Module) -> None:
        data(model)
        raise ValueError("no luck")

    before = as_it_is(net)
    crafted = attacked(net, Foreign(act), x)
    assert as_it_is(net) == before
    assert {note.split(" on ")[0] for note in crafted.notes} == {
        "the attack crashed", "the attack changed the model's weights (model.conv.weight)",
    }  # fmt: skip


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, MemoryError])
def test_the_model_is_given_back_however_it_ends(net: Net, x: Tensor, interrupt: type[BaseException]) -> None:
    def act(model: nn.Module) -> None:
        data(model)
        raise interrupt

    before = as_it_is(net)
    with pytest.raises((KeyboardInterrupt, craft.UsageError)):
        attacked(net, Foreign(act), x)
    assert as_it_is(net) == before


def harmless(model: nn.Module) -> None:
    model.eval()
    torch.set_grad_enabled(True)
    point = torch.rand(4, 3, 6, 6, requires_grad=True)
    model(point).sum().backward()
    with torch.no_grad(), torch.inference_mode():
        model(point)
    handle = inner(model).conv.register_forward_hook(lambda *_: None)
    handle.remove()
    model.train()
    model.eval()
    random.random(), np.random.rand(), torch.rand(3)


def test_an_attack_that_tidies_up_is_let_be(net: Net, x: Tensor) -> None:
    crafted = attacked(net, Foreign(harmless), x)
    assert not crafted.failed.any()
    assert crafted.notes == ()


class Counting(Net):
    """Changes a buffer and an attribute of its own each time that it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        self.last = x.detach()
        return super().forward(x)


def test_nobody_is_blamed_for_what_a_model_does_by_itself(x: Tensor) -> None:
    net = Counting().eval()
    crafted = attacked(net, Foreign(lambda model: model(x)), x)
    assert not crafted.failed.any()
    assert crafted.notes == ()
    assert (net.asked, net.last) == (0, None)


def test_attacks_of_ismns_own_are_not_watched(net: Net, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(craft, "Guard", lambda _: pytest.fail("a built-in attack is watched"))
    assert not attacked(net, lambda model, x, y: x + 0.05, x).failed.any()
