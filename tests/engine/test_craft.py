from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine import groups
from ismn_cli.engine.craft import Proposed, craft_batch
from ismn_cli.engine.modes import evaluating

THREAT = ThreatModel(eps=0.1)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(), nn.Linear(8, 3))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


Y = torch.arange(6) % 3


def test_an_honest_attack_passes_through(net: nn.Module, x: Tensor) -> None:
    crafted = craft_batch(net, lambda model, x, y: x + 0.05, x, Y, THREAT, 0)
    assert torch.equal(crafted.adversarial, x + 0.05)
    assert not crafted.failed.any()
    assert crafted.notes == ()
    assert crafted.linf.tolist() == pytest.approx([0.05] * 6, abs=1e-6)
    assert crafted.l2.tolist() == pytest.approx([0.05 * 48**0.5] * 6, abs=1e-5)
    assert crafted.seconds > 0


@pytest.mark.parametrize("norm", list(Norm))
def test_rounding_is_clipped_and_violations_fail(norm: Norm, net: nn.Module, x: Tensor) -> None:
    threat = ThreatModel(norm=norm, eps=0.1)
    unit = 1.0 if norm is Norm.LINF else 1 / 48**0.5

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        moved = torch.zeros(len(x))
        moved[:6] = torch.tensor([0.1, 0.10005, 0.2, 0.0, 0.05, -0.1])
        return x + unit * moved[:, None, None, None]

    crafted = craft_batch(net, attack, x, Y, threat, 0)
    assert crafted.failed.tolist() == [False, False, True, False, False, False]
    assert torch.equal(crafted.adversarial[2], x[2])
    distance = crafted.linf if norm is Norm.LINF else crafted.l2
    assert distance.max() <= 0.1 + 1e-6
    assert crafted.notes == ("the attack left the threat model on 1 samples",)


def test_leaving_the_box_fails(net: nn.Module) -> None:
    x = torch.full((1, 3, 4, 4), 0.97)
    crafted = craft_batch(net, lambda model, x, y: x + 0.1, x, Y[:1], THREAT, 0)
    assert crafted.failed.tolist() == [True]


def test_nan_and_infinity_fail_alone(net: nn.Module, x: Tensor) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x + 0.05
        x[1, 0, 0, 0] = torch.nan
        x[4, 0, 0, 0] = torch.inf
        return x

    crafted = craft_batch(net, attack, x, Y, THREAT, 0)
    assert crafted.failed.tolist() == [False, True, False, False, True, False]
    assert torch.equal(crafted.adversarial[[1, 4]], x[[1, 4]])
    assert crafted.linf[[1, 4]].tolist() == [0, 0]
    assert crafted.notes == ("the attack returned values that are not finite for 2 samples",)


def test_a_crash_fails_all_and_says_why(net: nn.Module, x: Tensor) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.train()
        raise IndexError("index -6 is out of bounds\nand much more")

    net.eval()
    crafted = craft_batch(net, attack, x, Y, THREAT, 0)
    assert crafted.failed.all()
    assert torch.equal(crafted.adversarial, x)
    assert crafted.notes == ("the attack crashed on 6 samples: IndexError: index -6 is out of bounds",)
    assert not net.training
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    "returned", [None, torch.rand(6, 3, 4), torch.rand(5, 3, 4, 4), torch.ones(6, 3, 4, 4, dtype=torch.uint8)]
)
def test_something_else_than_images_fails_all(returned: object, net: nn.Module, x: Tensor) -> None:
    crafted = craft_batch(net, lambda model, x, y: returned, x, Y, THREAT, 0)  # type: ignore[arg-type, return-value]
    assert crafted.failed.all()
    assert torch.equal(crafted.adversarial, x)
    assert "returned" in crafted.notes[0]


def test_half_precision_from_an_attack_is_clipped(net: nn.Module, x: Tensor) -> None:
    crafted = craft_batch(net, lambda model, x, y: (x + 0.0999).half(), x, Y, THREAT, 0)
    assert crafted.adversarial.dtype == torch.float32
    assert crafted.linf.max() <= 0.1 + 1e-6


def test_passes_are_counted(net: nn.Module, x: Tensor) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(3):
            x = x.detach().requires_grad_()
            torch.autograd.grad(model(x).sum(), x)
        with torch.no_grad():
            model(x[:2])
        return x

    crafted = craft_batch(net, attack, x, Y, THREAT, 0)
    assert (crafted.forwards, crafted.backwards) == (3 * 6 + 2, 3 * 6)


def test_the_attacked_model_is_in_eval_mode_and_frozen(net: nn.Module, x: Tensor) -> None:
    seen: list[bool] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.extend(m.training for m in model.modules())
        seen.extend(p.requires_grad for p in model.parameters())
        return x

    net.train()
    craft_batch(net, attack, x, Y, THREAT, 0)
    assert not any(seen)
    assert net.training
    assert net[2].training


def test_gradients_work_where_the_caller_has_switched_them_off(net: nn.Module, x: Tensor) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + 0.01 * torch.autograd.grad(model(x.requires_grad_()).sum(), x)[0].sign()

    with torch.no_grad():
        assert not craft_batch(net, attack, x, Y, THREAT, 0).failed.any()
    with torch.inference_mode():
        assert not craft_batch(net, attack, x + 0, Y, THREAT, 0).failed.any()


def test_an_attack_that_writes_into_its_input_harms_nobody(net: nn.Module, x: Tensor) -> None:
    before, labels = x.clone(), Y.clone()

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        y.zero_()
        return x.add_(0.05)

    crafted = craft_batch(net, attack, x, Y, THREAT, 0)
    assert torch.equal(x, before)
    assert torch.equal(Y, labels)
    assert crafted.linf.tolist() == pytest.approx([0.05] * 6, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.full((1, 3, 4, 4), 255.0), Y[:1]),
        (torch.full((1, 3, 4, 4), -0.1), Y[:1]),
        (torch.full((1, 3, 4, 4), torch.nan), Y[:1]),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), Y[:1]),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float16), Y[:1]),
        (torch.zeros(3, 4, 4), Y[:3]),
        (torch.zeros(1, 3, 4, 4), Y[:2]),
        (torch.zeros(1, 3, 4, 4), Y[:1].float()),
    ],
)
def test_other_images_or_labels_are_refused(x: Tensor, y: Tensor, net: nn.Module) -> None:
    with pytest.raises(UsageError) as caught:
        craft_batch(net, lambda model, x, y: x, x, y, THREAT, 0)
    assert "float32" in caught.value.hint


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_is_no_robustness(error: Exception, net: nn.Module, x: Tensor) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise error

    for together, hint in ((False, "smaller images"), (True, "smaller batch")):
        with pytest.raises(UsageError, match="Memory ran out while attacking 6 images") as caught:
            craft_batch(net, attack, x, Y, THREAT, 0, together)
        assert hint in caught.value.hint


@pytest.mark.parametrize("fits", [8, 11, 40])
def test_what_does_not_fit_into_memory_is_halved_once(
    fits: int, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    taken: list[weakref.ref[Tensor]] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert all(held() is None for held in taken)  # what a try before had taken is free again
        tried.append(len(x))
        proposed = (x + 0.01 * torch.rand_like(x)).clamp(0, 1)
        if len(x) > fits:
            taken.append(weakref.ref(proposed))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return proposed

    x, y = torch.rand(37, 3, 4, 4), torch.zeros(37, dtype=torch.int64)
    alone = craft_batch(net, attack, x, y, THREAT, 0)
    monkeypatch.setattr(groups, "group_size", len)  # as on a GPU
    tried.clear()
    crafted = craft_batch(net, attack, x, y, THREAT, 0)
    assert torch.equal(crafted.adversarial, alone.adversarial) and not crafted.failed.any()
    assert sum(n for n in tried if n <= fits) == 37 and max(tried) == 37
    tried.clear()
    again = craft_batch(net, attack, x, y, THREAT, 0)
    assert torch.equal(again.adversarial, alone.adversarial)
    assert max(tried) <= fits and sum(tried) == 37  # remembered: no try is lost
    tried.clear()
    craft_batch(nn.Sequential(net), attack, x, y, THREAT, 0)
    assert tried[0] == 37  # of that model only


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_that_a_gpu_has_no_room_for_is_halved() -> None:
    class Wide(nn.Module):
        """Takes an eighth of the device for each image."""

        def forward(self, x: Tensor) -> Tensor:
            tried.append(len(x))
            eighth = torch.cuda.mem_get_info()[1] // 8
            taken = torch.empty(len(x), eighth, dtype=torch.uint8, device=x.device)
            return x.flatten(1)[:, :3] + taken[:, :1].isnan()

    tried: list[int] = []
    net, x = Wide(), torch.rand(20, 3, 4, 4, device="cuda")
    labels = torch.zeros(20, dtype=torch.int64, device="cuda")
    for first in (20, 5):
        tried.clear()
        crafted = craft_batch(net, lambda model, x, y: x + 0.0 * model(x).sum(), x, labels, THREAT, 0)
        torch.cuda.empty_cache()
        assert not crafted.failed.any() and tried[0] == first and max(tried[-4:]) <= 5


def test_a_users_interrupt_is_not_swallowed(net: nn.Module, x: Tensor) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        craft_batch(net, attack, x, Y, THREAT, 0)
    assert net.training


def test_evaluating_gives_back_each_mode() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[1].eval()
    net[2].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="x"), evaluating(net, frozen=True):
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        raise ValueError("x")
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [True, True, True, False]


class Round:
    """A round that lightens images and settles those whose label is below a number; it keeps what it was given."""

    whole_groups = True

    def __init__(self, below: int, fails: bool = False) -> None:
        self.below, self.fails, self.given = below, fails, list[list[int]]()

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Proposed:
        self.given.append(y.tolist())
        if self.fails:
            raise ZeroDivisionError
        settled = y < self.below
        return Proposed(torch.where(settled[:, None, None, None], x + 0.01 * self.below, x), ("said",), settled=settled)


class Rounds:
    def __init__(self, *rounds: Round) -> None:
        self.rounds = rounds


def test_what_a_round_leaves_makes_whole_groups_again(net: nn.Module) -> None:
    x, y = torch.full((24, 3, 4, 4), 0.5), torch.arange(24) % 4
    first, second, third, last = rounds = Round(1), Round(3), Round(3), Round(4)
    crafted = craft_batch(net, Rounds(*rounds), x, y, ThreatModel(eps=0.1), 0)
    assert [len(given) for given in first.given] == [8, 8, 8]
    assert second.given == [[1, 2, 3, 1, 2, 3, 1, 2], [3, 1, 2, 3, 1, 2, 3, 1], [2, 3, 2, 2, 2, 2, 2, 2]]  # and copies
    assert third.given == last.given == [[3] * 8]
    moved = (crafted.adversarial - x)[:, 0, 0, 0]
    torch.testing.assert_close(moved, 0.01 * torch.tensor([1.0, 3.0, 3.0, 4.0])[y])
    torch.testing.assert_close(crafted.linf, moved)
    assert crafted.notes == ("said",) and not crafted.failed.any()


def test_what_a_round_has_settled_no_later_one_undoes(net: nn.Module) -> None:
    x, y = torch.full((8, 3, 4, 4), 0.5), torch.arange(8) % 4
    after = Round(4)
    crafted = craft_batch(net, Rounds(Round(2), Round(2, fails=True), after), x, y, ThreatModel(eps=0.1), 0)
    assert crafted.failed.tolist() == (y >= 2).tolist() and not after.given
    assert torch.equal(crafted.adversarial[y >= 2], x[y >= 2])
    assert bool((crafted.linf[y < 2] > 0).all())
