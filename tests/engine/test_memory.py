"""The memory of a step against sums made by hand, against the process's own, and what it does without contents."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_cli.engine import memory
from ismn_cli.engine.dry_run import attack_a_step, train_a_step
from ismn_cli.engine.memory import free_bytes, largest_batch, peak_bytes
from ismn_models.shape import Shape
from ismn_models.training import Stage

FLOAT = 4


@pytest.mark.parametrize("contents", [False, True])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 50), inputs=st.integers(1, 40), outputs=st.integers(1, 40))
def test_linear_layer_by_hand(contents: bool, n: int, inputs: int, outputs: int) -> None:
    """At the end: weights and their gradient, input, output and its gradient; before it the bare product too."""

    def step() -> None:
        weights = torch.zeros(inputs, outputs, requires_grad=True)
        (torch.zeros(n, inputs) @ weights).relu().sum().backward()

    forward = inputs * outputs + n * inputs + 2 * n * outputs
    backward = 2 * inputs * outputs + n * inputs + n * outputs
    peak = peak_bytes(step, contents=contents)
    assert FLOAT * max(forward, backward) <= peak <= FLOAT * (max(forward, backward) + n * outputs + 3)


def test_what_is_dropped_does_not_add_up() -> None:
    def step() -> None:
        for _ in range(5):
            torch.zeros(1000)

    assert peak_bytes(step) == 1000 * FLOAT


def test_views_and_changes_in_place_take_nothing() -> None:
    def step() -> None:
        x = torch.zeros(10, 100)
        x.t()[3:].add_(1)

    assert peak_bytes(step) == 1000 * FLOAT


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_optimisers_keep_what_they_keep(optimiser: type[torch.optim.Optimizer]) -> None:
    def step() -> list[Tensor]:
        net = nn.Linear(1000, 100, bias=False)
        made = optimiser(net.parameters(), lr=0.1)  # type: ignore[call-arg]
        net(torch.zeros(1, 1000)).sum().backward()
        made.step()
        return [p for group in made.state.values() for p in group.values()]

    copies = 2 if optimiser is torch.optim.SGD else 4  # weights and gradient; Adam's two means
    assert peak_bytes(step) >= copies * 100_000 * FLOAT
    assert peak_bytes(step) < (copies + 2.1) * 100_000 * FLOAT  # and what the update itself needs for a moment


def test_what_was_there_before_does_not_count_and_a_copy_leaves_it_as_it_is() -> None:
    net, x = nn.Linear(64, 64), torch.rand(8, 64)
    before = copy.deepcopy(net.state_dict())
    assert peak_bytes(lambda: x.sum()) <= x.nbytes + FLOAT
    copied = peak_bytes(lambda: copy.deepcopy(net))
    assert 64 * 65 * FLOAT <= copied <= 3 * 64 * 65 * FLOAT
    peak_bytes(lambda: copy.deepcopy(net).weight.data.zero_())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_recomputed_activations_do_not_count_twice() -> None:
    """Four layers kept for the gradient, or one at a time."""
    from torch.utils.checkpoint import checkpoint

    layers = [nn.Tanh() for _ in range(8)]

    def step(run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        x = torch.zeros(1000, requires_grad=True)
        for number in range(0, 8, 4):
            x = run(nn.Sequential(*layers[number : number + 4]), x)
        x.sum().backward()

    kept = peak_bytes(lambda: step(lambda net, x: net(x)))
    recomputed = peak_bytes(lambda: step(lambda net, x: checkpoint(net, x, use_reentrant=False)))
    assert kept >= 9 * 1000 * FLOAT
    assert recomputed < kept


def test_selections_take_everything_and_conditions_hold() -> None:
    seen: list[object] = []

    def step() -> None:
        x = torch.zeros(6, 5)
        seen.extend([bool((x > 1).all()), len((x[:, 0] > 1).nonzero()), x[x[:, 0] > 1].shape, x[x > 1].shape])
        seen.extend([torch.equal(x, x + 1), x.masked_select(x > 1).shape, float(x.sum()), int(x.argmax())])
        x[x[:, 1] > 1] = torch.ones(6, 5)

    peak_bytes(step)
    assert seen == [True, 6, (6, 5), (30,), True, (30,), 1.0, 1]


def test_a_module_can_be_moved_and_copied() -> None:
    def step() -> None:
        net = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7)).to("cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        copy.deepcopy(net)(torch.zeros(2, 3, 8, 8))

    assert peak_bytes(step) > 0


def test_a_step_that_waits_for_a_number_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_ENDLESS", 200)

    def wait() -> None:
        x = torch.zeros(3)
        while (x == 0).any():
            x = x + 1

    with pytest.raises(RuntimeError, match="come to an end"):
        peak_bytes(wait)


def test_what_needs_the_pixels_says_so_and_is_measured_with_them() -> None:
    def step() -> None:
        torch.from_numpy(torch.zeros(100).numpy()) + 1

    with pytest.raises(Exception):  # noqa: B017
        peak_bytes(step)
    assert peak_bytes(step, contents=True) >= 100 * FLOAT


@settings(max_examples=60, deadline=None)
@given(
    fixed=st.integers(0, 1000), each=st.integers(1, 50), limit=st.integers(0, 20_000), batch=st.sampled_from([1, 8, 32])
)
def test_largest_batch_of_a_line(fixed: int, each: int, limit: int, batch: int) -> None:
    found = largest_batch(lambda n: fixed + each * n, batch, limit)
    wanted = max(0, min(1024, (limit - fixed) // each))
    assert fixed + each * found <= limit or found == 0
    assert found == wanted


@settings(max_examples=60, deadline=None)
@given(each=st.integers(10, 50), bound=st.integers(2, 40), limit=st.integers(100, 4000), batch=st.integers(1, 32))
def test_largest_batch_always_fits(each: int, bound: int, limit: int, batch: int) -> None:
    """Also where large batches are cheaper, as with activations that are computed again."""

    def peak_at(n: int) -> int:
        return n * (each if n <= bound else each // 3)

    found = largest_batch(peak_at, batch, limit)
    assert found == 0 or peak_at(found) <= limit


def test_free_memory_is_some_of_the_machine() -> None:
    psutil = pytest.importorskip("psutil")
    found = free_bytes(torch.device("cpu"))
    assert found is not None
    assert 0 < found <= psutil.virtual_memory().total
    assert free_bytes(torch.device("meta")) is None


class Fitting(Stage):
    name, epochs, batch_size = "fitting", 3, 4

    def __init__(self) -> None:
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2))
        self.optimisers = (torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9),)
        self.begun: list[int] = []

    def begin_epoch(self, epoch: int, train: object) -> None:
        self.begun.append(epoch)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        loss = nn.functional.cross_entropy(self.net(self.augment(x)), y)
        self.optimisers[0].zero_grad()
        loss.backward()
        self.optimisers[0].step()
        return {"loss": loss.item()}


def test_a_training_step_is_that_of_the_first_and_of_the_last_epoch() -> None:
    stage = Fitting()
    train_a_step(stage, Shape(2, 3, 8), 100, 4, nullcontext)
    assert stage.begun == [0, 2]
    assert all(p.isfinite().all() for p in stage.net.parameters())


def test_the_memory_of_a_training_step_is_in_proportion_to_the_batch() -> None:
    def peak_at(n: int) -> int:
        return peak_bytes(lambda: train_a_step(Fitting(), Shape(2, 3, 8), 100, n, nullcontext))

    planned = [peak_at(n) for n in (8, 16, 24)]
    assert planned[0] < planned[1] < planned[2]
    assert planned[2] - planned[1] == pytest.approx(planned[1] - planned[0], rel=0.1)


def test_an_attack_step_moves_by_what_the_gradient_says_and_needs_none() -> None:
    seen: list[Tensor] = []

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            sums = x.flatten(1).sum(1)
            return torch.stack([sums, -sums], 1)

    attack_a_step(Net(), Shape(2, 3, 4), 2)
    # Label 0 has the sum of the pixels, which are zero and cannot fall.
    assert [float(x.sum()) for x in seen] == [0.0, 0.0]
    attack_a_step(nn.Sequential(Blind()), Shape(2, 3, 4), 2)


class Blind(nn.Module):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2].clone()


MEASURED = """
import torch
from torch import nn
torch.set_num_threads(1)
def resident(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
def step(n):
    net = nn.Sequential(nn.Linear(256, 1024), nn.Tanh(), nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 256))
    net(torch.zeros(n, 256)).square().mean().backward()
step(8)
before = resident("VmRSS")
step(16384)
print(resident("VmHWM") - before)
from ismn_cli.engine.memory import peak_bytes
print(peak_bytes(lambda: step(16384)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_against_the_memory_of_a_process() -> None:
    """Up to three tenths more than planned: libraries need room inside an operation, and allocators round up."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    )
    measured, planned = map(int, done.stdout.split())
    assert planned > 200e6
    assert 0.95 * planned <= measured <= 1.3 * planned
