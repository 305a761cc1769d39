from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor

from ismn_cli.attacks.objectives import LOSSES, ce, dlr, extent, margin, scaled_ce, targeted_margin, wrong_classes

QUICK = settings(deadline=None, max_examples=60)


@st.composite
def problems(draw: st.DrawFn, least: int = 2) -> tuple[Tensor, Tensor]:
    """Logits [N, K] of any size, and labels."""
    n, k = draw(st.integers(1, 8)), draw(st.integers(least, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(n, k, generator=generator) * 10 ** draw(st.floats(-2, 2)) + draw(st.floats(-50, 50))
    return logits, torch.randint(k, (n,), generator=generator)


def _targets(logits: Tensor, y: Tensor) -> list[Tensor]:
    return list(wrong_classes(logits, y).T)


@QUICK
@given(problems())
def test_a_margin_above_zero_is_a_wrong_answer(problem: tuple[Tensor, Tensor]) -> None:
    logits, y = problem
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


@QUICK
@given(problems())
def test_the_best_target_is_the_margin(problem: tuple[Tensor, Tensor]) -> None:
    logits, y = problem
    towards = torch.stack([targeted_margin(logits, y, target) for target in _targets(logits, y)])
    assert torch.equal(towards.amax(0), margin(logits, y))
    assert torch.equal(towards[0], margin(logits, y))


@QUICK
@given(problems(least=3))
def test_dlr_says_the_same_as_the_margin(problem: tuple[Tensor, Tensor]) -> None:
    logits, y = problem
    assert torch.equal(dlr(logits, y).sign(), margin(logits, y).sign())


@QUICK
@given(problems(least=3))
def test_dlr_is_the_references(problem: tuple[Tensor, Tensor]) -> None:
    logits, y = problem
    theirs = APGDAttack.dlr_loss(None, logits, y)
    torch.testing.assert_close(dlr(logits, y), theirs, rtol=1e-4, atol=1e-5)


@QUICK
@given(problems(least=3))
def test_all_rise_with_a_wrong_logit_and_fall_with_the_true_one(problem: tuple[Tensor, Tensor]) -> None:
    """The weak form: a gradient that rounds to zero is no contradiction. DLR's divisor may work against it."""
    logits, y = problem
    target = _targets(logits, y)[-1]
    losses = [ce, scaled_ce, margin, partial(targeted_margin, target=target), partial(scaled_ce, temperature=20)]
    for loss in losses:
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, y).sum(), leaf)
        true = gradient.gather(1, y[:, None])
        assert (true <= 0).all()
        assert (gradient.scatter(1, y[:, None], 0) >= 0).all()


@QUICK
@given(problems(least=3), st.floats(0.01, 1000), st.floats(-100, 100))
def test_what_does_not_change_with_scale_and_offset(
    problem: tuple[Tensor, Tensor], factor: float, offset: float
) -> None:
    logits, y = (problem[0] - problem[0].mean()).double(), problem[1]
    for loss in (scaled_ce, dlr):
        torch.testing.assert_close(loss(factor * logits + offset, y), loss(logits, y))


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_scaled_ce_has_a_gradient_where_ce_is_saturated(classes: int) -> None:
    torch.manual_seed(0)
    logits = 100 * torch.randn(4, classes)
    y = torch.tensor([0, 1, 1, 0])
    logits[torch.arange(4), y] += 1000
    for loss, alive in ((ce, False), (scaled_ce, True)):
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, y).sum(), leaf)
        assert gradient.any(1).tolist() == [alive] * 4
        # The digits of all wrong classes are there, not only that of the best.
        assert bool((gradient.scatter(1, y[:, None], 1) > 0).all()) == alive


def test_a_temperature_divides() -> None:
    logits, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(scaled_ce(logits, y, 7), ce(logits / 7, y))


@pytest.mark.parametrize("value", [0.0, 5.0, -300.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_equal_logits_are_finite(loss: str, value: float) -> None:
    leaf = torch.full((3, 4), value).requires_grad_()
    y = torch.tensor([0, 1, 2])
    result = LOSSES[loss](leaf, y)
    (gradient,) = torch.autograd.grad(result.sum(), leaf)
    assert result.isfinite().all() and gradient.isfinite().all()


@QUICK
@given(problems())
def test_wrong_classes_come_in_order_without_the_true_one(problem: tuple[Tensor, Tensor]) -> None:
    logits, y = problem
    for row, true, found in zip(logits.tolist(), y.tolist(), wrong_classes(logits, y).tolist(), strict=True):
        assert sorted([*found, true]) == list(range(len(row)))
        assert [row[c] for c in found] == sorted((v for c, v in enumerate(row) if c != true), reverse=True)


def test_the_extent_is_a_constant_to_the_gradient() -> None:
    assert not extent(torch.randn(2, 3, requires_grad=True)).requires_grad
