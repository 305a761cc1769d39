"""A net asked about parts of images answers as when asked about all of them, and does less for it."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ismn_cli.engine.locality import Local, followed
from ismn_cli.engine.windows import Window, differing, reached
from ismn_models.classifiers.resnet import resnet18, wide_resnet
from ismn_models.classifiers.table1 import Table1

SIDE = 24
MARGIN = 40


class Branched(nn.Module):
    """What the plain nets have not: steps and borders of every kind, two ways that meet, a factor for each map."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, stride=3, padding=1, bias=False)
        self.right = nn.Sequential(nn.Conv2d(3, 6, (5, 3), padding=(2, 1), groups=3), nn.MaxPool2d(3, 3))
        self.thin = nn.Conv2d(6, 6, 1, stride=2)
        self.wide = nn.Conv2d(6, 6, 3, stride=2, padding=2, dilation=2)
        self.norm, self.squeeze = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.pool, self.out = nn.MaxPool2d(2, 1, padding=1), nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.left(x) * self.scale + nn.functional.silu(self.right(x), inplace=True)
        h = self.norm(self.thin(h) + self.wide(h)).relu_()
        h = h * self.squeeze(h.mean((2, 3), keepdim=True)).sigmoid()
        logits: Tensor = self.out(self.pool(h).amax((2, 3)))
        return logits


def smaller() -> nn.Module:
    net = Table1(4)
    net.features[0], net.features[2], net.features[6] = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    net.features[5], net.features[8] = nn.BatchNorm2d(8), nn.Conv2d(8, 64, 3)
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "table1": smaller,
    "branched": Branched,
    "pre-activation": lambda: wide_resnet(depth=10, widen=1),
}


@st.composite
def queries(draw: st.DrawFn) -> list[tuple[Window, list[bool]]]:
    """Windows that are asked about in turn, and which images are kept each time."""
    found = []
    for _ in range(draw(st.integers(4, 12))):
        side = draw(st.sampled_from([1, 2, 3, 5, SIDE]))
        top, left = (draw(st.integers(0, SIDE - side)) for _ in range(2))
        kept = draw(st.lists(st.booleans(), min_size=3, max_size=3))
        found.append((Window(top, top + side, left, left + side), kept))
    return found


@pytest.mark.parametrize("name", NETS)
@settings(deadline=None, max_examples=25)
@given(asked=queries(), seed=st.integers(0, 1000))
def test_answers_are_those_of_the_net(name: str, asked: list[tuple[Window, list[bool]]], seed: int) -> None:
    torch.manual_seed(seed)
    net = NETS[name]().eval()
    local, best = Local(net, after=0), torch.rand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        for window, kept in asked:
            x = best.clone()
            window.of(x).copy_(torch.rand(3, 3, 1, 1).expand_as(window.of(x)))
            torch.testing.assert_close(local(x), net(x), rtol=1e-4, atol=1e-5)
            best = torch.where(torch.tensor(kept)[:, None, None, None], x, best)


@pytest.mark.parametrize(("made", "share"), [(Table1, 0.25), (resnet18, 0.8)])
def test_small_changes_take_few_operations(made: Callable[[], nn.Module], share: float) -> None:
    torch.manual_seed(0)
    net, best = made().eval(), torch.rand(2, 3, 32, 32)
    local, spent = Local(net, after=0), list[int]()
    for number in range(20):
        x, (top, left) = best.clone(), torch.randint(30, (2,)).tolist()
        x[:, :, top : top + 3, left : left + 3] = torch.rand(3, 1, 1)
        with torch.no_grad():
            if number < 4:  # the counter changes what is seen of a net that is being followed
                local(x)
                continue
            with FlopCounterMode(display=False) as counter:
                local(x)
        spent.append(counter.get_total_flops())
        if number % 3 == 0:
            best = x
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(best)
    assert statistics.mean(spent) < share * counter.get_total_flops()


def test_windows_that_overlap_are_small_changes_too() -> None:
    """Two queries in a row may agree where both were changed and neither was kept, far from what is asked next."""
    net, best = smaller().eval(), torch.rand(3, 3, 32, 32)
    local = Local(net, after=3)
    with torch.no_grad():
        for number in range(12):
            x = best.clone()
            corner = slice(0, 3) if number % 3 else slice(29, 32)
            x[:, :, corner, corner] = 1.0
            torch.testing.assert_close(local(x), net(x), rtol=1e-4, atol=1e-5)
            assert local.in_a_row == max(0, number - 1)
            assert (local.tape is not None) == (number > 4)


def test_images_that_leave_and_images_that_change_wholly_are_answered_too() -> None:
    net = smaller().eval()
    local = Local(net, after=0)
    with torch.no_grad():
        for count in (4, 4, 4, 4, 3, 3, 3, 3, 1):
            x = torch.full((count, 3, 32, 32), 0.5)
            x[:, :, count, count] = torch.rand(count, 3)
            torch.testing.assert_close(local(x), net(x), rtol=1e-4, atol=1e-5)
        assert local.tape is None, "of one image nothing is known yet"
        for _ in range(4):
            x = torch.rand(3, 3, 32, 32)
            torch.testing.assert_close(local(x), net(x), rtol=1e-4, atol=1e-5)


def test_what_was_asked_about_before_changes_nothing() -> None:
    """Else an image's outcome would depend on the groups that were attacked before its own."""
    torch.manual_seed(0)
    net, groups = smaller().eval(), []
    for _ in range(2):
        best, asked = torch.rand(3, 3, 32, 32), []
        for number in range(9):
            x = best.clone()
            x[:, :, 3 * number : 3 * number + 3, number] = torch.rand(3, 3, 3)
            asked.append(x)
            best = x if number % 2 else best
        groups.append(asked)
    local = Local(net, after=2)
    with torch.no_grad():
        answers = [torch.stack([local(x) for x in asked]) for asked in (groups[0], groups[1], groups[0])]
        assert local.tape is not None
    assert torch.equal(answers[0], answers[2])


class Odd(nn.Module):
    """A net that is not all in its operations on tensors."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.way == "draws":
            h = nn.functional.dropout(h)
        if self.way == "decides" and h.mean() > 0:
            h = h * 2
        if self.way == "leaves torch":
            h = torch.from_numpy(h.numpy() * 2)
        if self.way == "not two-dimensional":
            h = h.flatten(2)[..., None]
        logits: Tensor = self.out(h.amax((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("way", "followed_there"),
    [("", True), ("draws", False), ("decides", False), ("leaves torch", False), ("not two-dimensional", True)],
)
def test_what_cannot_be_followed_is_asked_as_it_is(way: str, followed_there: bool) -> None:
    torch.manual_seed(0)
    net, x = Odd(way).eval(), torch.rand(2, 3, 16, 16)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert (followed(net, x) is not None) == followed_there
    assert torch.equal(torch.get_rng_state(), state), "an attack's draws would depend on when it was followed"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    local = Local(net, after=0)
    for number in range(6):
        x[:, :, number] = 0
        torch.manual_seed(number)
        with torch.no_grad():
            found = local(x.clone())
        torch.manual_seed(number)
        with torch.no_grad():
            torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)


def test_square_takes_the_same_steps() -> None:
    torch.manual_seed(0)
    net, x = smaller().eval(), torch.rand(6, 3, 32, 32)
    nn.init.normal_(net.get_submodule("output").weight, std=0.1)
    with torch.no_grad():
        net.get_submodule("output").bias.sub_(net(x).mean(0))  # which leaves every class its share of the images
        y = net(x).argmax(1)
    local, found = Local(net), []
    for model in (net, local):
        square = SquareAttack(model, eps=0.02, n_queries=150, n_restarts=1, seed=1, device=torch.device("cpu"))
        found.append(square.perturb(x, y))
    assert local.graphs, "it was never asked about a part"
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert bool((net(found[0]).argmax(1) != y).any()) and bool((net(found[0]).argmax(1) == y).any())


@given(
    size=st.integers(5, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    start=st.integers(0, 19),
    length=st.integers(1, 20),
)
def test_reach_of_a_kernel(
    size: int, kernel: int, stride: int, padding: int, dilation: int, start: int, length: int
) -> None:
    """Against a convolution of all of the image."""
    new = Window(0, size, min(start, size - 1), min(start + length, size))
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        return
    changed, x = torch.zeros(1, 1, size, size), torch.rand(1, 1, size, size)
    weight = torch.rand(1, 1, kernel, kernel) + 1
    new.of(changed).fill_(1)
    out, touched = (nn.functional.conv2d(maps, weight, None, stride, padding, dilation) for maps in (x, changed))
    found, needed = reached(new, out, kernel, stride, padding, dilation)
    touched_at = differing(touched, torch.zeros_like(out))
    assert found.common(touched_at) == touched_at or not touched_at.area, "an output that is new is left as it was"
    if found.area:
        part = Window(*(side + MARGIN for side in needed)).of(nn.functional.pad(x, [MARGIN] * 4))
        torch.testing.assert_close(nn.functional.conv2d(part, weight, None, stride, 0, dilation), found.of(out))
