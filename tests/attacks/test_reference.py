"""Our AutoAttack cell is the package's own, and what the package leaves behind does not reach anyone."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import AutoAttack
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.attacks.reference import PREFIX
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.ball import project
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_cli.engine.draws import Common
from ismn_cli.engine.groups import SIZE, filled, groups
from ismn_cli.engine.rng import seed_everything

THEIR_NORM = {Norm.LINF: "Linf", Norm.L2: "L2"}


@dataclass(frozen=True)
class Ten:
    """A net of ten classes, and images it labels right."""

    net: nn.Module
    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def ten() -> Ten:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        patterns = torch.randn(10, 1, 8, 8)
        patterns = 0.7 * patterns / patterns.flatten(1).norm(dim=1)[:, None, None, None]
        y = torch.arange(300) % 10
        x = (0.5 + patterns[y] + 0.12 * torch.randn(300, 1, 8, 8)).clamp(0, 1)
        net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    net.zero_grad()
    net.eval()
    assert bool((net(x[:24]).argmax(1) == y[:24]).all())
    return Ten(net, x[:24], y[:24])


def ours(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, *, norm=Norm.LINF, seed: int = 3, classes: int = 10, **params
) -> Crafted:
    threat = ThreatModel(norm=norm, eps=eps)
    return craft_batch(net, make_attack(resolve_params("autoattack", threat, params), classes), x, y, threat, seed)


def theirs(net: nn.Module, x: Tensor, y: Tensor, eps: float, *, norm=Norm.LINF, seed: int = 3, **how) -> Tensor:
    images = []
    for rows in groups(x):
        seed_everything(seed)
        drawn = int(torch.randint(2**31 - 1, ()))
        attack = AutoAttack(net, eps=eps, norm=THEIR_NORM[norm], seed=drawn, **how)
        with Common():
            found, _ = attack.run_standard_evaluation(filled(x[rows]), filled(y[rows]), batch_size=SIZE)
        images.append(found[: len(rows)])
    return project(torch.cat(images), x, ThreatModel(norm=norm, eps=eps))


def right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


@pytest.mark.parametrize(
    ("norm", "eps", "version", "attacks", "some_survive"),
    [
        (Norm.LINF, 0.05, "standard", None, True),
        (Norm.LINF, 0.08, "plus", None, False),
        (Norm.LINF, 0.1, "rand", None, False),
        (Norm.LINF, 0.05, "custom", ["apgd-dlr"], True),
        (Norm.L2, 0.3, "custom", ["apgd-t"], True),
        (Norm.L2, 0.5, "custom", ["fab-t", "square"], False),
    ],
)
def test_equals_the_package_called_directly(norm, eps, version, attacks, some_survive: bool, ten: Ten) -> None:
    params = {"version": version} | ({"attacks": "+".join(attacks)} if attacks else {})
    crafted = ours(ten.net, ten.x, ten.y, eps, norm=norm, **params)
    images = theirs(ten.net, ten.x, ten.y, eps, norm=norm, version=version, attacks=attacks)
    # A length in L2 is a sum over an image's pixels, which torch rounds by the number of images that are left.
    assert norm is Norm.L2 or torch.equal(crafted.adversarial, images)
    survived = right(ten.net, crafted.adversarial, ten.y)
    assert torch.equal(survived, right(ten.net, images, ten.y))
    assert not survived.all()
    assert bool(survived.any()) == some_survive
    assert not crafted.failed.any()


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t"])
def test_the_verdicts_are_those_of_the_package_on_each_image_alone(attack: str, ten: Ten) -> None:
    crafted = ours(ten.net, ten.x, ten.y, 0.05, version="custom", attacks=attack)
    for image, label, found in zip(ten.x.split(1), ten.y.split(1), crafted.adversarial.split(1), strict=True):
        seed_everything(3)
        package = AutoAttack(
            ten.net, eps=0.05, seed=int(torch.randint(2**31 - 1, ())), version="custom", attacks=[attack]
        )
        alone, _ = package.run_standard_evaluation(image, label, batch_size=1)
        assert torch.equal(right(ten.net, alone, label), right(ten.net, found, label))


def test_costs_what_the_package_costs(ten: Ten) -> None:
    sent = 0

    def count(_: nn.Module, arguments: tuple[Tensor]) -> None:
        nonlocal sent
        sent += len(arguments[0])

    x, y = ten.x[:SIZE], ten.y[:SIZE]
    crafted = ours(ten.net, x, y, 0.05, version="custom", attacks="apgd-ce")
    with ten.net.register_forward_pre_hook(count):
        theirs(ten.net, x, y, 0.05, version="custom", attacks=["apgd-ce"])
    assert crafted.forwards == sent
    assert 0 < crafted.backwards < crafted.forwards


def test_each_batch_is_attacked_by_itself(ten: Ten) -> None:
    """What a batch comes to depends on its own seed only, and seeds do reach the attack."""
    quick = {"version": "custom", "attacks": "apgd-ce"}
    first = ours(ten.net, ten.x[:12], ten.y[:12], 0.05, seed=1, **quick)
    second = ours(ten.net, ten.x[12:], ten.y[12:], 0.05, seed=2, **quick)
    direct = theirs(ten.net, ten.x[12:], ten.y[12:], 0.05, seed=2, version="custom", attacks=["apgd-ce"])
    assert torch.equal(second.adversarial, direct)
    other = ours(ten.net, ten.x[:12], ten.y[:12], 0.05, seed=2, **quick)
    assert not torch.equal(first.adversarial, other.adversarial)


def test_memory_layout_changes_nothing(ten: Ten) -> None:
    """The harness hands over channels-last batches, of which the package cannot take views."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    x = torch.rand(6, 3, 8, 8)
    y = net(x).argmax(1)
    for norm, eps in ((Norm.LINF, 0.002), (Norm.L2, 0.02)):
        params = {"norm": norm, "classes": 4, "version": "custom", "attacks": "apgd-t"}
        plain = ours(net, x, y, eps, **params)
        last = ours(net, x.to(memory_format=torch.channels_last), y, eps, **params)
        assert torch.equal(plain.adversarial, last.adversarial)
        assert right(net, last.adversarial, y).any()
        assert not last.failed.any()


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_nothing_to_do(version: str, ten: Ten) -> None:
    wrong = (ten.y + 1) % 10
    for x, y, eps in ((ten.x, wrong, 0.05), (ten.x[:1], wrong[:1], 0.05), (ten.x, ten.y, 0.0)):
        crafted = ours(ten.net, x, y, eps, version=version)
        assert torch.equal(crafted.adversarial, x)
        assert crafted.notes == ()
        assert not crafted.failed.any()


def linear(weight: Tensor, bias: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], len(weight))
    layer.weight.data, layer.bias.data = weight, bias
    return nn.Sequential(nn.Flatten(), layer).eval()


@settings(max_examples=6, deadline=None)
@given(case=st.sampled_from([(2, "apgd-dlr"), (2, "apgd-t"), (3, "apgd-t")]), seed=st.integers(0, 1000))
def test_below_four_classes_the_margin_finds_what_can_be_found(case: tuple[int, str], seed: int) -> None:
    """A linear classifier's robust samples are known: margin / ||w_y - w_j||_1 > eps for every j.

    Its logits are so large that cross-entropy has no gradient at all.
    """
    classes, loss = case
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(classes, 36, generator=generator), torch.zeros(classes)
    x = 0.5 + 0.06 * (2 * torch.rand(16, 1, 6, 6, generator=generator) - 1)  # eps away from the box
    net = linear(1e5 * weight, bias)
    y = net(x).argmax(1)
    gaps = (weight[y][:, None] - weight[None]).double()
    distance = (gaps @ x.flatten(1).double()[:, :, None]).squeeze(2) / gaps.abs().sum(2)
    distance[torch.arange(16), y] = torch.inf
    nearest = distance.amin(1)
    eps = float(nearest.median()) + 1e-4
    crafted = ours(net, x, y, eps, classes=classes, version="custom", attacks=loss)
    clear = (nearest - eps).abs() > 2e-3 * eps
    assert torch.equal(right(net, crafted.adversarial, y)[clear], (nearest > eps)[clear])
    assert [f"the DLR loss of {loss}" in note for note in crafted.notes] == [True]


@pytest.mark.parametrize(
    ("classes", "version", "attacks", "substituted"),
    [
        (2, "standard", "none", ["apgd-t"]),
        (2, "rand", "none", ["apgd-dlr"]),
        (2, "plus", "none", ["apgd-dlr", "apgd-t"]),
        (3, "standard", "none", ["apgd-t"]),
        (3, "rand", "none", []),
        (4, "standard", "none", []),
        (2, "custom", "apgd-dlr+apgd-t+fab+fab-t", ["apgd-dlr", "apgd-t"]),
        (3, "custom", "apgd-dlr+apgd-t+fab-t", ["apgd-t"]),
        (5, "custom", "apgd-dlr+apgd-t+fab-t", []),
    ],
)
def test_few_classes_are_attacked_to_the_end(classes: int, version: str, attacks: str, substituted: list[str]) -> None:
    """The package raises IndexError there as soon as something survives its first attack."""
    weight = torch.randn(classes, 36, generator=torch.Generator().manual_seed(classes))
    net = linear(weight, torch.zeros(classes))
    x = 0.5 + 0.1 * torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    crafted = ours(net, x, y, 1e-4, classes=classes, version=version, attacks=attacks)
    assert not crafted.failed.any()
    assert bool(right(net, crafted.adversarial, y).any())
    expected = f"{PREFIX}classes: {classes} are too few for the DLR loss of {' and '.join(substituted)};"
    assert [note.startswith(expected) for note in crafted.notes] == [True] * bool(substituted)


def test_too_few_logits_are_refused(ten: Ten) -> None:
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(UsageError, match=r"answers \[4, 1\] for 4 images of 2 classes") as caught:
        ours(one, ten.x[:4], ten.y[:4] % 2, 0.1, classes=2)
    assert "[0, z]" in caught.value.hint
    with pytest.raises(UsageError, match="at least 2 classes"):
        ours(one, ten.x[:4], ten.y[:4] % 2, 0.1, classes=1)


class Probabilities(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(1)


class Noisy(Probabilities):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.05 * torch.randn_like(x))


class Rounding(Probabilities):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 8).round() / 8)


class Descending(Probabilities):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            step = torch.autograd.grad(self.net(moved).logsumexp(1).sum(), moved)[0]
        return self.net(x + 1e-3 * step)


@pytest.mark.parametrize(
    ("defence", "attacks", "finding"),
    [
        (Noisy, "apgd-ce", "randomised"),
        (Probabilities, "apgd-ce", "probabilities"),
        (Rounding, "apgd-dlr", "zero gradient"),
        (Descending, "apgd-ce", "dynamic"),
        (Rounding, "apgd-ce+apgd-dlr+square", "square"),
    ],
)
def test_findings_become_notes_and_nothing_else(
    defence, attacks: str, finding: str, ten: Ten, capfd, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = {}
    logging.disable(logging.CRITICAL)  # findings are results: the process's logging has no say in them
    try:
        for net in (defence(ten.net), ten.net):
            said[net] = ours(net, ten.x[:12], ten.y[:12], 0.08, version="custom", attacks=attacks).notes
    finally:
        logging.disable(logging.NOTSET)
    found, plain = said.values()
    assert [note for note in found if note.startswith(f"{PREFIX}{finding}: ")]
    assert len(set(found)) == len(found)
    # The package's count of gradients in the forward pass is the process's; one found there is not told again.
    assert plain == ()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_function_comes_back(ten: Ten) -> None:
    def trace(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ours(ten.net, ten.x[:2], ten.y[:2], 0.2, version="custom", attacks="apgd-ce")
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
    assert kept is trace


@pytest.mark.parametrize("classes", [2, 4])
def test_the_model_dies_with_its_attack(classes: int) -> None:
    """Without waiting for the cycle collector."""
    x, y = torch.rand(2, 1, 6, 6), torch.tensor([0, 1])
    gc.collect()
    gc.disable()
    try:
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
        alive = weakref.ref(net)
        ours(net, x, y, 0.5, classes=classes, version="custom", attacks="apgd-dlr+apgd-t+fab+fab-t+square")
        del net
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"version": "quick"}, "standard, plus, rand, custom"),
        ({"version": "custom"}, "needs some of apgd-ce"),
        ({"version": "custom", "attacks": "none"}, "needs some of apgd-ce"),
        ({"version": "custom", "attacks": "apgd-ce+sqare"}, "'sqare' is not one of"),
        ({"version": "custom", "attacks": "fab+fab"}, "one twice"),
        ({"version": "custom", "attacks": "none+fab"}, "none beside others"),
        ({"version": "custom", "attacks": ""}, "not one of"),
        ({"version": "custom", "attacks": 3}, "not one of"),
        ({"attacks": "fab"}, "version=custom only"),
        ({"version": "rand", "attacks": "fab"}, "version=custom only"),
        ({"steps": 10}, "no parameter steps"),
    ],
)
def test_bad_parameters_are_refused(params, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_params("autoattack", ThreatModel(eps=0.1), params)


@given(st.lists(st.sampled_from(["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]), min_size=1, unique=True))
def test_custom_attacks_keep_their_order(names: list[str]) -> None:
    given_ = {"version": "custom", "attacks": "+".join(names)}
    spec = resolve_params("autoattack", ThreatModel(eps=0.1), given_)
    assert spec.params == given_
    assert resolve_params("autoattack", ThreatModel(eps=0.1), spec.params) == spec
