"""Every rule of an attack catches the fault that is planted for it, and no other rule does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.core.conformance import RULES
from ismn_cli.core.findings import Verdict
from ismn_cli.testing import ConformanceError, check_attack
from ismn_models.shape import Shape

SHAPE = Shape(4, 3, 8)


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(point), y, reduction="sum")
    return torch.autograd.grad(loss, point)[0]


def fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return (x + eps * gradient(model, x, y).sign()).clamp(0, 1)


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int = 3, norm: str = "linf") -> Tensor:
    start = x.clone()
    for _ in range(steps):
        slope = gradient(model, start, y)
        length = slope.flatten(1).norm(dim=1)[:, None, None, None]
        step = slope.sign() if norm == "linf" else slope / length
        delta = start + eps / steps * step - x
        start = (x + delta).clamp(0, 1)
    return start


def test_nothing_is_wrong_with_good_ones() -> None:
    for attack, norms in ((fgsm, 1), (pgd, 2)):
        findings = check_attack(attack, shape=SHAPE)
        assert {f.verdict for f in findings} == {Verdict.PASS}
        assert {f.code for f in findings} == {code for code in RULES if code.startswith("CA")}
        assert len({f.subject for f in findings}) == norms


def test_parameters_are_given(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConformanceError, match="CA14"):
        check_attack(lambda model, x, y, eps, share=1.0: fgsm(model, x, y, share * eps), params={"share": 0.1})


def raises(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return torch.ones(3) + torch.ones(2)


def another_shape(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return fgsm(model, x, y, eps).flatten(1)


def not_a_number(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    found = fgsm(model, x, y, eps)
    # an image of whole grey levels only
    return torch.where(((x == 0) | (x == 1)).flatten(1).all(1)[:, None, None, None], found * torch.nan, found)


def leaves_the_ball(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return fgsm(model, x, y, 1.5 * eps)


def leaves_the_box(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return x + eps * gradient(model, x, y).sign()


def moves_the_weights(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    found = fgsm(model, x, y, eps)
    next(model.parameters()).data.mul_(1.01)
    return found


def trains(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    found = fgsm(model, x, y, eps)
    model.train()
    return found


def takes_parameter_gradients(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    point = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(point), y).backward()
    return (x + eps * point.grad.sign()).clamp(0, 1).detach()


def works_in_place(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return x.copy_(fgsm(model, x, y, eps))


def changes_labels(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    found = fgsm(model, x, y, eps)
    y.zero_()
    return found


def reseeds(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    torch.manual_seed(0)
    return fgsm(model, x, y, eps)


def switches_gradients_off(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    found = fgsm(model, x, y, eps)
    torch.set_grad_enabled(False)
    return found


def own_generator(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    generator = torch.Generator()
    generator.seed()
    noise = torch.rand(x.shape, generator=generator)
    return (x + eps * (1 - 0.1 * noise) * gradient(model, x, y).sign()).clamp(0, 1)


def divides_by_eps(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return (x + eps * (gradient(model, x, y) / eps).sign() if eps else x + torch.nan).clamp(0, 1)


def squeezes(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return fgsm(model, x, y, eps).squeeze()


def third_logit(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    model(x).sort(1).values[:, -3]
    return fgsm(model, x, y, eps)


def its_own_size(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Breaks what is near, whatever it is allowed."""
    return fgsm(model, x, y, min(eps, 0.6 * 8 / 255) if eps < 0.04 else 0.0)


def goes_down(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Wrong sign, but for large sizes."""
    sign = 1 if eps > 0.05 else -1
    return (x + sign * eps * gradient(model, x, y).sign()).clamp(0, 1)


PLANTED: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "CA01": (raises,),
    "CA02": (another_shape,),
    "CA03": (not_a_number,),
    "CA04": (leaves_the_ball,),
    "CA05": (leaves_the_box,),
    "CA06": (moves_the_weights, trains, takes_parameter_gradients),
    "CA07": (works_in_place, changes_labels),
    "CA08": (reseeds, switches_gradients_off),
    "CA09": (own_generator,),
    "CA10": (divides_by_eps,),
    "CA11": (squeezes,),
    "CA12": (third_logit,),
    "CA13": (its_own_size,),
    "CA14": (goes_down,),
}
CASES = [pytest.param(code, each, id=f"{code}-{each.__name__}") for code, all_ in PLANTED.items() for each in all_]


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("code", "attack"), CASES)
def test_one_rule_catches_it(code: str, attack: Callable[..., Tensor]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_attack(attack, shape=SHAPE)
    broken = [f.code for f in caught.value.findings if f.verdict is Verdict.FAIL]
    # What cannot run on two classes finds nothing there either.
    assert broken == ([code, "CA14"] if code == "CA12" else [code]), str(caught.value)
    assert RULES[code].remedy in str(caught.value)


def test_all_rules_have_a_planted_fault() -> None:
    assert set(PLANTED) == {code for code in RULES if code.startswith("CA")}


def test_a_control_is_not_asked_for_success() -> None:
    def noise(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    with pytest.raises(ConformanceError) as caught:
        check_attack(noise, shape=SHAPE)
    assert {f.code for f in caught.value.findings if f.verdict is Verdict.FAIL} >= {"CA14"}
    check_attack(noise, shape=SHAPE, control=True)


def test_a_class_of_torchattacks() -> None:
    import torchattacks

    class Quick(torchattacks.PGD):
        def __init__(self, model: nn.Module, eps: float = 8 / 255, steps: int = 2) -> None:
            super().__init__(model, eps=eps, alpha=eps, steps=steps)

    assert {f.verdict for f in check_attack(Quick, shape=SHAPE)} == {Verdict.PASS}

    class Backwards(Quick):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return (2 * images - super().forward(images, labels)).clamp(0, 1)

    with pytest.raises(ConformanceError, match="CA13"):
        check_attack(Backwards, shape=SHAPE)


def test_one_that_ends_the_program_does_not() -> None:
    def leaves(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        raise SystemExit(0)

    with pytest.raises(ConformanceError, match=r"CA01[\s\S]*SystemExit"):
        check_attack(leaves, shape=SHAPE)
