"""Every rule of a defence catches the fault that is planted for it, and no other rule does."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from ismn_cli.core.conformance import RULES
from ismn_cli.core.findings import Verdict
from ismn_cli.testing import ConformanceError, check_defence
from ismn_models.pipeline import Classify, Decision, Defence, Read, Reading, Waypoint, straight_through
from ismn_models.shape import Shape

SHAPE = Shape(4, 3, 8)


class Good(Defence):
    """Darkens."""

    policy = "reform"

    def reform(self, x: Tensor) -> Tensor:
        return 0.9 * x


class Detector(Good):
    """Rejects the brightest."""

    policy = "reject"

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return x.square().mean((1, 2, 3))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        scores = torch.cat([self.score(x, classify) for x in batches])
        self.threshold.copy_(scores.quantile(0.8))


class Router(Detector):
    policy = "route"


class Noisy(Good):
    randomised = True

    def reform(self, x: Tensor) -> Tensor:
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)


class Rounded(Good):
    differentiable = False

    def reform(self, x: Tensor) -> Tensor:
        return (8 * x).round() / 8


GOOD = (Defence, Good, Detector, Router, Noisy, Rounded)


@pytest.mark.parametrize("make", GOOD)
def test_nothing_is_wrong_with_a_good_one(make: Callable[[], Defence]) -> None:
    findings = check_defence(make, shape=SHAPE)
    assert {f.code for f in findings} == {code for code in RULES if code.startswith("CD")}
    assert Verdict.WARN not in {f.verdict for f in findings}
    assert check_defence(make(), shape=SHAPE)


class OtherPolicy(Good):
    policy = "refuse"


class TooBright(Good):
    def reform(self, x: Tensor) -> Tensor:
        return 1.5 * x


class ColumnOfScores(Detector):
    """`decide` would be fine: it flattens the column."""

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return super().score(x, classify)[:, None]

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        score = self.score(x, classify)[:, 0]
        flagged = score >= self.threshold
        return Decision(classify(self.reform(x)), flagged, flagged, score, torch.ones_like(flagged).long())

    def trace(self, x: Tensor, classify: Classify) -> list[Waypoint]:
        return [Waypoint("reformed", self.reform(x), torch.ones(len(x), dtype=torch.bool))]

    def margin(self, x: Tensor, classify: Classify) -> Tensor:
        return self.score(x, classify)[:, 0] - self.threshold

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        self.threshold.copy_(torch.cat([self.score(x, classify) for x in batches]).quantile(0.8))


class IntegerLoops(Good):
    def decide(self, x: Tensor, classify: Classify) -> Decision:
        return super().decide(x, classify)._replace(loops=torch.ones(len(x)))


class RejectsUnderAnotherName(Detector):
    policy = "route"

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        found = super().decide(x, classify)
        return found._replace(rejected=found.flagged)


class NeverCalibrated(Detector):
    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        pass


class StillTracesWhatItWas(Good):
    def decide(self, x: Tensor, classify: Classify) -> Decision:
        return super().decide(x, classify)._replace(logits=classify(0.5 * x))

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        return {"darker": lambda x: Reading(classify(0.5 * x))}


class NoWayThrough(Rounded):
    def surrogates(self, classify: Classify) -> dict[str, Read]:
        return {"rounded": lambda x: Reading(classify(self.reform(x)))}


class SaysItHasGradients(Rounded):
    differentiable = True

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        passed = straight_through(self.reform)
        return {"bpda": lambda x: Reading(classify(passed(x)))}


class DrawsSecretly(Noisy):
    randomised = False


class DrawsNothing(Good):
    randomised = True


class OwnGenerator(Noisy):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def reform(self, x: Tensor) -> Tensor:
        self.seen += 1
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seen))
        return (x + 0.1 * noise.to(x)).clamp(0, 1)


class MarginTheWrongWay(Detector):
    def margin(self, x: Tensor, classify: Classify) -> Tensor:
        return -super().margin(x, classify)


class MeanOfTheBatch(Good):
    def reform(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * x.mean(0, keepdim=True)


class PlainThreshold(Detector):
    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        self.bar = torch.cat([self.score(x, classify) for x in batches]).quantile(0.8)

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        score = self.score(x, classify)
        flagged = score >= getattr(self, "bar", self.threshold)
        return Decision(classify(self.reform(x)), flagged, flagged, score, torch.ones_like(flagged).long())

    def margin(self, x: Tensor, classify: Classify) -> Tensor:
        return self.score(x, classify) - getattr(self, "bar", self.threshold)


class HoldsALock(Good):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Counts(Good):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        self.asked += 1
        return super().decide(x, classify)


class Reseeds(Good):
    def decide(self, x: Tensor, classify: Classify) -> Decision:
        torch.manual_seed(0)
        return super().decide(x, classify)


class Constant(Good):
    def __init__(self) -> None:
        super().__init__()
        self.shade = torch.full((1, 3, 1, 1), 0.9)

    def reform(self, x: Tensor) -> Tensor:
        return self.shade * x


PLANTED = {
    "CD01": (OtherPolicy,),
    "CD02": (TooBright,),
    "CD03": (ColumnOfScores,),
    "CD04": (IntegerLoops,),
    "CD05": (RejectsUnderAnotherName,),
    "CD06": (NeverCalibrated,),
    "CD07": (StillTracesWhatItWas,),
    "CD08": (NoWayThrough,),
    "CD09": (SaysItHasGradients,),
    "CD10": (DrawsSecretly, DrawsNothing),
    "CD11": (OwnGenerator,),
    "CD12": (MarginTheWrongWay,),
    "CD13": (MeanOfTheBatch,),
    "CD14": (PlainThreshold,),
    "CD15": (HoldsALock,),
    "CD16": (Counts, Reseeds),
    "CD17": (Constant,),
}
CASES = [pytest.param(code, each, id=f"{code}-{each.__name__}") for code, all_ in PLANTED.items() for each in all_]


@pytest.mark.parametrize(("code", "make"), CASES)
def test_one_rule_catches_it(code: str, make: Callable[[], Defence]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_defence(make, shape=SHAPE)
    assert [f.code for f in caught.value.findings if f.verdict is Verdict.FAIL] == [code], str(caught.value)
    assert RULES[code].title in str(caught.value)
    assert RULES[code].remedy in str(caught.value)


def test_a_surrogate_that_answers_otherwise_is_doubted() -> None:
    class Elsewhere(Good):
        def surrogates(self, classify: Classify) -> dict[str, Read]:
            return {"inverse": lambda x: Reading(classify(1 - x))}

    assert [f.code for f in check_defence(Elsewhere, shape=SHAPE) if f.verdict is Verdict.WARN] == ["CD18"]


def test_a_gradient_that_is_hidden_is_doubted() -> None:
    class Modest(Good):
        differentiable = False

    assert [f.code for f in check_defence(Modest, shape=SHAPE) if f.verdict is Verdict.WARN] == ["CD09"]


def test_all_rules_have_a_planted_fault() -> None:
    assert {*PLANTED, "CD18"} == {code for code in RULES if code.startswith("CD")}


def test_all_faults_are_told_at_once() -> None:
    class Everything(Good):
        randomised = True
        differentiable = False

        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def reform(self, x: Tensor) -> Tensor:
            return 2 * x.mean(0, keepdim=True).expand_as(x)

    with pytest.raises(ConformanceError) as caught:
        check_defence(Everything, shape=SHAPE)
    broken = {f.code for f in caught.value.findings if f.verdict is Verdict.FAIL}
    assert broken >= {"CD02", "CD10", "CD15"}
    assert all(RULES[code].title in str(caught.value) for code in broken)


@pytest.mark.parametrize("method", ["reform", "score", "decide", "trace", "surrogates", "calibrate"])
def test_what_it_raises_is_told_with_its_place(method: str) -> None:
    def fail(self: Defence, *_: object) -> None:
        raise ValueError("there is | no such <thing>\nand more")

    with pytest.raises(ConformanceError) as caught:
        check_defence(type("Raises", (Detector,), {method: fail}), shape=SHAPE)
    assert "ValueError: there is | no such <thing>" in str(caught.value)
    assert "test_planted_defences.py, line" in str(caught.value)


def test_something_else_is_no_defence() -> None:
    class Forgot(Defence):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

    for made in (functools.partial(torch.nn.Linear, 3, 3), Forgot, lambda: None):
        with pytest.raises(ConformanceError, match="CD01"):
            check_defence(made, shape=SHAPE)


def test_what_is_asked_is_left_as_it_was() -> None:
    defence = Detector().train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_defence(defence, shape=SHAPE)
    assert torch.equal(torch.rand(2), expected)
    assert defence.training
    assert defence.threshold == float("inf"), "a copy is calibrated"
