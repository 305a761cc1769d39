"""Every rule of a model catches the fault that is planted for it, and no other rule does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.core.conformance import RULES
from ismn_cli.core.findings import Verdict
from ismn_cli.testing import ConformanceError, check_model
from ismn_models.shape import Shape

SHAPE = Shape(4, 3, 8)


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6 * 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(x)).tanh().flatten(1))


class Tuple(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Doubles(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class OneLogit(Net):
    def __init__(self) -> None:
        super().__init__(1)


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return super().forward(x)


class WorksInPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x[:, :, 0, 0] = 0
        return super().forward(x)


class Reseeds(Net):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return super().forward(x)


class Constant(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.full((3, 1, 1), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)


class Probabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach() * self.norm.weight[:3, None, None])


class WholeBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 0.5 * x.mean(0, keepdim=True))


class Logarithm(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.01 * (x.mean((1, 2, 3), keepdim=False)).log()[:, None]


class Draws(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


class Drops(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5))


PLANTED: dict[str, tuple[type[nn.Module], ...]] = {
    "CM01": (Tuple, Doubles, OneLogit),
    "CM02": (Counts, WorksInPlace, Reseeds),
    "CM03": (Constant,),
    "GM08": (Probabilities,),
    "GM10": (Detached,),
    "MD05": (WholeBatch,),
    "MD06": (Logarithm,),
    "RN02": (Draws,),
}
CASES = [pytest.param(code, each, id=f"{code}-{each.__name__}") for code, all_ in PLANTED.items() for each in all_]


@pytest.fixture(autouse=True)
def weights() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("make", [Net, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4))])
def test_nothing_is_wrong_with_a_good_one(make: Callable[[], nn.Module]) -> None:
    for model in (make, make().eval()):
        findings = check_model(model, shape=SHAPE, classes=4)
        assert Verdict.FAIL not in {f.verdict for f in findings}
        assert {code for code in RULES if code.startswith("CM")} <= {f.code for f in findings}


@pytest.mark.parametrize(("code", "make"), CASES)
def test_one_rule_catches_it(code: str, make: type[nn.Module]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_model(make().eval(), shape=SHAPE)
    assert [f.code for f in caught.value.findings if f.verdict is Verdict.FAIL] == [code], str(caught.value)


def test_dropout_that_is_never_switched_off_is_named_too() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_model(Drops().eval(), shape=SHAPE)
    assert {f.code for f in caught.value.findings if f.verdict is Verdict.FAIL} == {"MD01", "RN02"}


def test_another_number_of_classes() -> None:
    with pytest.raises(ConformanceError, match="4 logits for 10 classes"):
        check_model(Net, shape=SHAPE, classes=10)


def test_images_of_ones_own_and_those_it_does_not_take() -> None:
    check_model(Net, torch.rand(8, 3, 8, 8))
    with pytest.raises(ConformanceError, match=r"(?s)CM01.*RuntimeError"):
        check_model(Net, torch.rand(8, 1, 9, 9))


def test_no_module_at_all() -> None:
    with pytest.raises(ConformanceError, match="no torch module"):
        check_model(lambda: 3)


def test_the_model_is_left_as_it_was() -> None:
    net = Net().train()
    net.norm.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    check_model(net, shape=SHAPE)
    assert net.training and net.conv.training and not net.norm.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
