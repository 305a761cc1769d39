from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_cli.attacks.evasion import (
    EVASIONS,
    Standing,
    Units,
    closeness,
    direction,
    draws_at_random,
    look,
    merged,
    succeeded,
    unit,
    units_of,
    without,
)
from ismn_cli.attacks.objectives import LOSSES, margin
from ismn_cli.engine.averaged import Averaged
from ismn_cli.engine.counting import Counted
from ismn_models.pipeline import Defence, Pipeline, Reading, Surrogate

GUARDED = [name for name in EVASIONS if name != "ignore"]
X = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(0))


class Guarded(nn.Module):
    """A small curved classifier, and a curved detector that flags about half of `X`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 4))
        self.detector = nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 1))
        self.requires_grad_(False)
        self.threshold = self.detector(X).median()

    def read(self, x: Tensor) -> Reading:
        return Reading(self.net(x), (self.detector(x) - self.threshold)[:, 0])


MODEL = Guarded()
SURROGATE = Surrogate(MODEL, MODEL.read)
RIGHT = MODEL.net(X).argmax(1)
HALF_WRONG = torch.where(torch.arange(12) % 2 == 0, RIGHT, (RIGHT + 1) % 4)


def standing(loss: str = "margin", y: Tensor = HALF_WRONG, model: Surrogate = SURROGATE) -> Standing:
    point = X.clone().requires_grad_()
    reading = model.look(point)
    return Standing(point, reading, y, lambda logits: LOSSES[loss](logits, y), units_of(reading))


def gradients(loss: str) -> tuple[Tensor, Tensor]:
    """Return the unit gradients of the loss and of the detector's margin."""
    here = standing(loss)
    up = here.of_loss(retain=True)
    return unit(up), unit(here.of_margin())


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def test_the_scene_has_every_kind_of_sample() -> None:
    here = standing()
    flagged = here.margin >= 0
    kinds = {(bool(f), bool(g)) for f, g in zip(here.fooled, flagged, strict=True)}
    assert len(kinds) == 4


eighths = st.integers(-160, 160).map(lambda n: n / 8)


@settings(deadline=None)
@given(st.lists(eighths, min_size=3, max_size=3), eighths, st.integers(0, 2), st.floats(0.01, 100), eighths)
def test_the_merged_margin_is_above_zero_where_both_are_fooled(
    logits: list[float], guard: float, y: int, size: float, offset: float
) -> None:
    """Negative logits too, where (1 + D) max Z of the paper says the opposite."""
    label = torch.tensor([y])
    reading = Reading(torch.tensor([logits]).double() + offset, torch.tensor([guard]).double())
    units = Units(torch.tensor([size]).double(), torch.tensor([1 / size]).double())
    assert torch.equal(margin(merged(reading, label, units), label) > 0, succeeded(reading, label))
    assert torch.equal(closeness(reading, label, units) > 0, succeeded(reading, label))


@pytest.mark.parametrize("loss", LOSSES)
def test_orthogonal_steps_leave_the_other_goal_alone(loss: str) -> None:
    up, score = gradients(loss)
    here = standing(loss)
    step = unit(direction("orthogonal", here))
    other = torch.where(here.fooled[:, None, None, None], up, score)
    assert dot(step, other).abs().max() < 1e-6
    chosen = torch.where(here.fooled[:, None, None, None], -score, up)
    assert (dot(step, chosen) > 0.05).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_selective_steps_on_one_gradient_at_a_time(loss: str) -> None:
    up, score = gradients(loss)
    here = standing(loss)
    expected = torch.where(here.fooled[:, None, None, None], -score, up)
    torch.testing.assert_close(unit(direction("selective", here)), expected)


@pytest.mark.parametrize(
    ("evasion", "loss"),
    # A cross-entropy on N+1 classes may rather shift weight between the wrong classes.
    [(e, loss) for e in GUARDED for loss in LOSSES if e != "logit" or "ce" not in loss],
)
def test_the_score_falls_where_the_class_is_wrong_and_the_detector_speaks(evasion: str, loss: str) -> None:
    """The public code for O-PGD raises it where it is given no loss for the detector."""
    here = standing(loss)
    step = 1e-3 * unit(direction(evasion, here))
    before, after = here.reading, SURROGATE.look(X + step)
    caught = here.fooled & (here.margin >= 0)
    assert caught.any()
    assert (after.margin < before.margin)[caught].all()
    # And a small enough step keeps what was fooled.
    assert (margin(after.logits, here.y) > 0)[caught].all()


@pytest.mark.parametrize("evasion", EVASIONS)
def test_the_loss_rises_where_the_detector_is_silent(evasion: str) -> None:
    here = standing()
    step = 1e-3 * unit(direction(evasion, here))
    free = ~here.fooled & (here.margin < -0.02 * here.units.margin)
    assert free.any()
    after = margin(SURROGATE.look(X + step).logits, here.y)
    assert (after > margin(here.reading.logits, here.y))[free].all()
    if evasion != "orthogonal":
        torch.testing.assert_close(1e3 * step[free], gradients("margin")[0][free])


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("evasion", EVASIONS)
def test_the_unit_of_the_score_does_not_matter(evasion: str, factor: float) -> None:
    scaled = Surrogate(MODEL, lambda x: Reading(MODEL.net(x), factor * MODEL.read(x).margin))
    torch.testing.assert_close(
        unit(direction(evasion, standing(model=scaled))), unit(direction(evasion, standing())), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("evasion", EVASIONS)
def test_without_a_detector_all_follow_the_loss(evasion: str) -> None:
    plain = Surrogate(MODEL, lambda x: Reading(MODEL.net(x)))
    expected = standing(model=plain).of_loss()
    assert torch.equal(direction(evasion, standing(model=plain)), expected)
    assert torch.equal(direction("ignore", standing()), expected)


@pytest.mark.parametrize("evasion", EVASIONS)
def test_a_detector_without_a_threshold_yet_is_silent(evasion: str) -> None:
    open_door = Surrogate(MODEL, lambda x: Reading(MODEL.net(x), MODEL.read(x).margin - torch.inf))
    here = standing(model=open_door)
    assert torch.equal(succeeded(here.reading, here.y), margin(here.reading.logits, here.y) > 0)
    assert torch.equal(closeness(here.reading, here.y, here.units) > 0, succeeded(here.reading, here.y))
    assert direction(evasion, here).isfinite().all()


@pytest.mark.parametrize("evasion", EVASIONS)
def test_a_detector_without_a_gradient_leaves_that_of_the_loss(evasion: str) -> None:
    opaque = Surrogate(MODEL, lambda x: Reading(MODEL.net(x), MODEL.read(x).margin.detach()))
    here = standing(model=opaque)
    step, expected = unit(direction(evasion, here)), unit(standing(model=opaque).of_loss())
    silent = ~here.fooled & (here.margin < -0.02 * here.units.margin)
    torch.testing.assert_close(step[silent], expected[silent])


@pytest.mark.parametrize("evasion", EVASIONS)
def test_an_answer_without_a_gradient_is_an_error(evasion: str) -> None:
    dead = Surrogate(MODEL, lambda x: Reading(MODEL.net(x).detach(), MODEL.read(x).margin))
    with pytest.raises(RuntimeError, match="gives no gradient"):
        direction(evasion, standing(model=dead))


def test_parallel_gradients_leave_no_orthogonal_step() -> None:
    """Rounding would otherwise make a step of full length out of nothing."""
    torch.manual_seed(0)
    a = unit(torch.randn(5, 1, 8, 8))
    assert not without(a, -a).any()
    assert without(a, unit(a + 1e-3 * torch.randn_like(a))).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_unit_vectors(size: float) -> None:
    vectors = size * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    vectors[2] = 0
    lengths = unit(vectors).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1, 0, 1]))
    assert (dot(unit(vectors), vectors / size)[[0, 1, 3]] > 0).all()


def test_every_kind_of_model_can_be_looked_at() -> None:
    for model in (SURROGATE, Counted(SURROGATE)):
        assert look(model, X).margin is not None
    for model in (MODEL.net, Counted(MODEL.net)):
        reading = look(model, X)
        assert reading.margin is None
        assert torch.equal(reading.logits, MODEL.net(X))


def test_what_draws_at_random_is_known() -> None:
    class Noisy(Defence):
        randomised = True

    noisy, still = (Pipeline(MODEL.net, defence) for defence in (Noisy(), Defence()))
    for model in (noisy, *noisy.surrogates().values(), Averaged(SURROGATE, 2)):
        assert draws_at_random(model) and draws_at_random(Counted(model))
    for model in (still, *still.surrogates().values(), SURROGATE, MODEL.net):
        assert not draws_at_random(model) and not draws_at_random(Counted(model))


@pytest.mark.parametrize(("evasion", "gradients_a_step"), [("ignore", 1), ("selective", 2), ("orthogonal", 2)])
def test_gradients_are_counted(evasion: str, gradients_a_step: int) -> None:
    counted = Counted(SURROGATE)
    point = X.clone().requires_grad_()
    reading = counted.look(point)
    loss = LOSSES["margin"]
    direction(evasion, Standing(point, reading, RIGHT, lambda z: loss(z, RIGHT), units_of(reading)))
    assert (counted.forwards, counted.backwards) == (12, gradients_a_step * 12)
