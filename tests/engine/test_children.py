"""Groups attacked side by side become what they become one after the other, whatever happens to the processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from signals import hears_ctrl_c
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine import children, craft, pace
from ismn_cli.engine.children import forks, processes, side_by_side
from ismn_cli.engine.counting import heard, tell
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.groups import FEWEST, MOST, WIDE, shares
from ismn_cli.engine.passes import Guarded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
N = 37
HERE = os.getpid()
X = torch.rand(N, 3, 12, 12)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_package_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages beside which nothing is forked, which another test file may have loaded: none is used here."""
    for package in ("onnxruntime", "tensorflow", "jax", "openvino"):
        monkeypatch.delitem(sys.modules, package, raising=False)


def in_a_child() -> bool:
    return os.getpid() != HERE


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 25, 5),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("method", ["pgd", "pgd-ensemble", "apgdt", "cw", "cw-search", "autoattack"])
def test_no_bit_and_no_count_depends_on_the_processes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, norm = net(), Norm.L2 if method.startswith("cw") else Norm.LINF
    threat = ThreatModel(norm=norm, eps=0.6 if norm is Norm.L2 else 0.02)
    attack = make_attack(resolve_params(method, threat, {"version": "rand"} if method == "autoattack" else {}), 5)
    y = model(X).argmax(1)
    monkeypatch.setattr(craft, "DEAR", 0)
    forked = list[int]()
    monkeypatch.setattr(
        craft, "side_by_side", lambda work, parts, n: [forked.append(n), side_by_side(work, parts, n)][1]
    )
    found = {}
    for threads in (2, 1):
        torch.set_num_threads(threads)
        made = list[int]()
        with heard(made.append):
            crafted = craft_batch(model, attack, X, y, threat, 3)
        found[threads] = crafted
        assert sum(made) == crafted.forwards + crafted.backwards or threads == 2
    assert 2 in forked
    answers = [model(crafted.adversarial).argmax(1) for crafted in found.values()]
    assert torch.equal(*answers)
    # A length in L2 is a sum over the image's pixels, which torch rounds by the number of images.
    assert norm is Norm.L2 or torch.equal(found[2].adversarial, found[1].adversarial)
    assert not torch.equal(found[2].adversarial, X)
    assert (found[2].forwards, found[2].notes) == (found[1].forwards, found[1].notes)
    assert found[1].backwards > 0
    # It forms groups of what is left in each process: the last to leave one takes no gradient of the others with it.
    assert found[2].backwards == found[1].backwards or method == "pgd-ensemble"


def test_a_cheap_attack_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    model, threat = net(), ThreatModel(norm=Norm.LINF, eps=0.02)
    monkeypatch.setattr(craft, "processes", lambda *_: pytest.fail("asked for processes"))
    craft_batch(model, make_attack(resolve_params("fgsm", threat, {}), 5), X, model(X).argmax(1), threat, 3)


def test_results_are_in_order_and_every_child_is_gone() -> None:
    def work(part: int) -> tuple[int, Tensor, int, int]:
        time.sleep(0.05 * (part == 0))
        return part, torch.full((2,), part), os.getpid(), torch.get_num_threads()

    found = side_by_side(work, range(9), 2)
    assert [(part, values.tolist()) for part, values, *_ in found] == [(n, [n, n]) for n in range(9)]
    pids = {pid for *_, pid, _ in found}
    assert len(pids) == 2 and HERE not in pids
    assert {threads for *_, threads in found} == {1} and torch.get_num_threads() == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(0)])
def test_what_a_child_dies_of_is_done_here(end: object) -> None:
    def work(part: int) -> tuple[int, bool]:
        if part == 3 and in_a_child():
            end()  # type: ignore[operator]
        return part, in_a_child()

    found = side_by_side(work, range(6), 2)
    assert [part for part, _ in found] == list(range(6))
    assert [child for _, child in found].count(False) == 1


def test_a_child_that_died_between_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    heard_of = children._Child.heard

    def heard_and_killed(child: children._Child) -> dict[int, object]:
        found = heard_of(child)
        if found:
            os.kill(child.process.pid or 0, signal.SIGKILL)
            child.process.join()
        return found

    monkeypatch.setattr(children._Child, "heard", heard_and_killed)
    assert [part for part, _ in side_by_side(lambda part: (part, in_a_child()), range(6), 2)] == list(range(6))


@pytest.mark.parametrize("most", [0, 1])
def test_where_the_system_gives_no_more_processes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = list[int]()

    def start(process: object) -> None:
        if len(begun) == most:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        begun.append(1)
        real(process)

    real = multiprocessing.context.ForkProcess.start
    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", start)
    assert side_by_side(lambda part: (part, in_a_child()), range(4), 3) == [(n, bool(most)) for n in range(4)]


def test_where_all_die_all_is_done_here() -> None:
    def work(part: int) -> bool:
        if in_a_child():
            os._exit(1)
        return in_a_child()

    assert side_by_side(work, range(5), 2) == [False] * 5


def test_what_is_raised_is_raised_here() -> None:
    def work(part: int) -> int:
        if part == 2:
            raise LookupError(f"part {part} in {'a child' if in_a_child() else 'its parent'}")
        return part

    with pytest.raises(LookupError, match="part 2 in its parent"):
        side_by_side(work, range(4), 2)


def test_a_child_that_waits_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STUCK", 1.0)
    lock = threading.Lock()
    lock.acquire()

    def work(part: int) -> int:
        if in_a_child() and part == 1:
            lock.acquire()  # held by a thread that a fork does not have
        if in_a_child() and part == 0:  # long, but at work
            end = time.process_time() + 2.5
            while time.process_time() < end:
                pass
        return part if in_a_child() else -part

    assert side_by_side(work, range(3), 2) == [0, -1, 2]


def test_passes_are_heard_while_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "TOLD_EVERY", 0.05)
    began, told = time.monotonic(), list[tuple[float, int]]()

    def work(part: int) -> int:
        for _ in range(20):
            tell(8)
            time.sleep(0.03)
        return part

    with heard(lambda passes: told.append((time.monotonic() - began, passes))):
        side_by_side(work, range(2), 2)
    assert 200 <= sum(passes for _, passes in told) <= 320
    assert min(when for when, passes in told if passes) < 0.5


def test_a_warning_is_heard_once(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: os.write(2, f"{message}\n".encode()))

    def work(part: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("slow", UserWarning, stacklevel=1)

    side_by_side(work, range(4), 2)
    assert capfd.readouterr().err.count("slow") == 1


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(children, "free_bytes", lambda device: 3 * 2**30)
    small = torch.zeros(400, 3, 32, 32)
    torch.set_num_threads(16)
    assert [processes(small[:n]) for n in (0, 1, 7, 8, 11, 12, 400)] == [1, 1, 1, 2, 2, 3, 3]
    assert processes(torch.zeros(400, 3, 128, 128)) == 1
    monkeypatch.setattr(children, "free_bytes", lambda device: None)
    assert processes(small) == 16
    torch.set_num_threads(1)
    assert processes(small) == 1


def test_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    x = torch.zeros(1, 3, 128, 128)
    assert forks(x) and not forks(torch.zeros(1, 3, 224, 224)) and not forks(x.to("meta"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        assert not forks(x)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
        assert not forks(x)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not forks(x)


def test_the_pace_is_that_of_the_processes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(pace, "forks", lambda x: True)
    monkeypatch.setattr(pace, "processes", lambda x: [asked.append(len(x)), 4][1])
    threads = set[int]()

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            threads.add(torch.get_num_threads())
            return x.flatten(1)[:, :5]

    found = pace.pace(Net(), X[:8], 100, clock=itertools.count().__next__)
    assert (asked, threads, torch.get_num_threads()) == ([100], {1}, 2)
    assert found.forward == 1 / 8 / 4  # a tick for each group


@given(n=st.integers(0, 200), count=st.integers(1, 20), most=st.sampled_from([MOST, WIDE]), side=st.integers(8, 150))
def test_shares_are_of_one_size_and_as_many_for_each(n: int, count: int, most: int, side: int) -> None:
    parts = shares(torch.zeros(n, 1, side, side), count, most)
    assert torch.equal(torch.cat([*parts, torch.zeros(0, dtype=torch.int64)]), torch.arange(n))
    sizes = [len(part) for part in parts]
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert all(size <= 8 or (size <= most and size * side**2 <= most * 32**2) for size in sizes)
    if n >= FEWEST:
        assert min(sizes) >= FEWEST
        assert len(parts) % count == 0 or (len(parts) + count) * FEWEST > n


def test_a_bare_classifier_in_bf16_is_shown_larger_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[int]()
    monkeypatch.setattr(
        craft, "side_by_side", lambda work, parts, n: [shown.append(len(parts[0])), [*map(work, parts)]][1]
    )
    threat = ThreatModel(norm=Norm.LINF, eps=0.02)
    attack = make_attack(resolve_params("autoattack", threat, {"version": "custom", "attacks": "fab-t"}), 5)
    for model in (Guarded(net()), net()):
        craft_batch(model, attack, torch.rand(48, 3, 12, 12), torch.zeros(48, dtype=torch.int64), threat, 3)
    assert shown == [24, 12]


ENDLESS = """
import os, time, torch
from ismn_cli.engine.children import side_by_side
torch.set_num_threads(2)
def work(part):
    print(os.getpid(), flush=True)
    while True:
        pass
side_by_side(work, range(4), 2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_children_end_with_their_parent(number: signal.Signals) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", ENDLESS], preexec_fn=hears_ctrl_c, **pipes) as process:
        try:
            assert process.stdout
            children = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
            process.send_signal(number)
            process.wait(timeout=60)
            assert not psutil.wait_procs(children, timeout=60)[1]
        finally:
            process.kill()  # and its children with it
