"""Each planted fault is found by its check and by no unrelated one; sound models fail nothing."""

from __future__ import annotations

import logging
import math
import random

import numpy as np
import pytest
import torch
import zoo_models as zoo
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyautoattack import checks as autoattack
from torch import Tensor, nn

from ismn_cli.attacks.objectives import margin
from ismn_cli.audit.answer_checks import clean_accuracy, collapsed
from ismn_cli.audit.behaviour_checks import gradient_inside, randomised
from ismn_cli.audit.exam import Exam, open_exam
from ismn_cli.audit.loss_checks import RADIUS, unstable
from ismn_cli.audit.model_checks import SYSTEM_CHECKS, model_findings, system_findings
from ismn_cli.audit.scaling_checks import COLOURED, GREY, RANGES, Scaling
from ismn_cli.core.checks import CHECKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.rates import Rate
from ismn_cli.engine.normalised import Normalised
from ismn_models.controls import Jpeg, Median
from ismn_models.controls_config import JpegConfig, MedianConfig
from ismn_models.pipeline import Defence, Pipeline


@pytest.fixture(scope="module")
def nets() -> zoo.Trained:
    return zoo.Trained()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return zoo.images(120, 2)


def codes(findings: list[Finding], verdict: Verdict) -> set[str]:
    return {finding.code for finding in findings if finding.verdict is verdict}


def told(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    return found


@pytest.mark.parametrize("name", zoo.FAULTS)
def test_a_fault_is_found_by_its_check_alone(name: str, nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    fault = zoo.FAULTS[name]
    findings = model_findings(fault.model(nets), *data, "planted", num_classes=zoo.CLASSES)
    failed = codes(findings, Verdict.FAIL)
    said = [f"{f.code} {f.verdict}: {f.says}" for f in findings if f.verdict is not Verdict.PASS]
    assert set(fault.fails) <= failed <= {*fault.fails, *fault.wake}, said
    assert codes(findings, Verdict.WARN) == set(fault.warns), said


def sound(nets: zoo.Trained) -> dict[str, nn.Module]:
    return {
        "plain": nets.plain,
        "adversarially trained": nets.robust,
        "normalised by declaration": Normalised(nets.normalised, *zoo.IMAGENET),
        "pixels of 0 to 255 by declaration": Normalised(nets.wide, (0.0,), (1 / 255,)),
        "log-probabilities": zoo.Around(nets.plain, after=lambda z: z.log_softmax(1)),
        "median filter": Pipeline(nets.plain, Median(MedianConfig())),
    }


def test_sound_models_fail_nothing(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    for name, model in sound(nets).items():
        model.eval()
        findings = model_findings(model, *data, name, num_classes=zoo.CLASSES, expected=0.99)
        assert not codes(findings, Verdict.FAIL), (name, [f for f in findings if f.verdict is Verdict.FAIL])
        assert not codes(findings, Verdict.NOT_RUN), name
        expected = {"EV05", "RN02", *(f"GM{i:02}" for i in (3, 8, 9, 10, 11, 12)), *(f"MD0{i}" for i in range(1, 9))}
        assert {finding.code for finding in findings} == expected
        assert all(finding.subject == name and finding.says.endswith(".") for finding in findings)


@pytest.mark.parametrize("probability", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_one_output_for_two_classes(nets: zoo.Trained, probability: bool, flat: bool) -> None:
    def single(z: Tensor) -> Tensor:
        one = z[:, 1:] - z[:, :1]
        one = one.sigmoid() if probability else one
        return one.squeeze(1) if flat else one

    findings = model_findings(
        zoo.Around(nets.binary, after=single), *zoo.images(120, 2, classes=2), "one", num_classes=2
    )
    assert codes(findings, Verdict.FAIL) == ({"MD04", "GM08"} if probability else {"MD04"})
    assert told(findings, "MD03").evidence["right"] > 110  # type: ignore[operator]


def test_the_right_scaling_is_named_with_what_to_type(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    findings = model_findings(nets.normalised, *data, "raw", num_classes=zoo.CLASSES)
    found = told(findings, "MD07")
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in found.says
    repaired = Normalised(nets.normalised, found.evidence["mean"], found.evidence["std"])  # type: ignore[arg-type]
    again = model_findings(repaired.eval(), *data, "repaired", num_classes=zoo.CLASSES)
    assert not codes(again, Verdict.FAIL)
    assert told(again, "MD03").evidence["right"] / len(data[0]) == found.evidence["with_it"]  # type: ignore[operator]
    twice = Normalised(zoo.Around(repaired), *zoo.IMAGENET)
    assert "leave --mean and --std away" in told(model_findings(twice, *data, "", num_classes=4), "MD07").says


def test_a_model_comes_back_as_it_was(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    net = zoo.copied(nets.plain)
    net.train()
    net.norm1.eval()
    net.out.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    wanted = [parameter.requires_grad for parameter in net.parameters()]
    backward = torch.autograd.backward
    draws = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index,union-attr]
    first = model_findings(net, *data, "", num_classes=zoo.CLASSES)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == draws[:2]  # type: ignore[index,union-attr]
    assert torch.equal(torch.get_rng_state(), draws[2])
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == wanted
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.autograd.backward is backward
    assert model_findings(net, *data, "", num_classes=zoo.CLASSES) == first


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


REFERENCE = ["softmax output", "functional dropout", "noise in the pixels", "noise in the logits", "gradient detached",
             "saturated logits", "optimisation inside", "backward inside", "rounded inputs"]  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_autoattacks_own_checks_say_the_same(name: str, nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = zoo.FAULTS[name].model(nets), data
    log, heard = logging.Logger("reference"), Told()
    log.addHandler(heard)
    autoattack.funcs.update(dict.fromkeys(autoattack.funcs, 0))
    with torch.no_grad():
        autoattack.check_dynamic(model, x, logger=log)
    autoattack.check_randomized(model, x, y, logger=log)
    autoattack.check_range_output(model, x, logger=log)
    words = {"GM09": "dynamic", "RN02": "randomized", "GM08": "probability"}
    theirs = {code for code, word in words.items() if any(word in line for line in heard.lines)}
    assert codes(system_findings(model, x, y, ""), Verdict.FAIL) & set(words) == theirs


def test_the_checks_of_a_defended_system(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    findings = system_findings(Pipeline(nets.plain, Jpeg(JpegConfig())), *data, "jpeg")
    assert {finding.code for finding in findings} == set(SYSTEM_CHECKS) <= set(CHECKS)
    assert codes(findings, Verdict.FAIL) == {"GM03", "GM10", "MD08"}
    assert not codes(system_findings(Pipeline(nets.robust, Defence()), *data, "at"), Verdict.FAIL)


class Noisy(Defence):
    def reform(self, x: Tensor) -> Tensor:
        return x + 0.05 * torch.randn_like(x)


@pytest.mark.parametrize("declared", [False, True])
def test_randomness_that_is_declared_is_a_warning(
    nets: zoo.Trained, data: tuple[Tensor, Tensor], declared: bool
) -> None:
    defence = Noisy()
    defence.randomised = declared
    findings = system_findings(Pipeline(nets.plain, defence), *data, "noisy")
    assert told(findings, "RN02").verdict is (Verdict.WARN if declared else Verdict.FAIL)
    assert codes(findings, Verdict.FAIL) == (set() if declared else {"RN02"})


def exam_of(answers: Tensor, y: Tensor, expected: float | None = None) -> Exam:
    """An exam whose model is never asked."""
    x = torch.zeros(len(y), 3, 2, 2)
    return Exam(nn.Identity(), x, y, "planted", tuple(answers.shape), answers, answers.shape[1], expected=expected)


@given(hits=st.integers(0, 200), extra=st.integers(0, 200), expected=st.floats(0, 1))
@settings(deadline=None)
def test_expected_accuracy_is_judged_by_the_interval(hits: int, extra: int, expected: float) -> None:
    n = hits + extra + 20
    y = torch.arange(n) % 10
    answers = torch.nn.functional.one_hot(torch.where(torch.arange(n) < hits, y, (y + 1 + torch.arange(n)) % 10), 10)
    exam = exam_of(answers.float() + 0.1, y, expected)
    right = int(exam.right.sum())
    low, high = Rate(right, n).interval()
    found = clean_accuracy(exam)
    if found.evidence["low"] == round(low, 4) and low <= max(0.1, math.ceil(n / 10) / n):
        assert found.verdict is Verdict.FAIL
    elif "another order" not in found.says:
        outcomes = {expected > high: Verdict.FAIL, expected < low: Verdict.WARN}
        assert found.verdict is outcomes.get(True, Verdict.PASS)


@given(st.data())
@settings(deadline=None)
def test_collapsed_is_nine_tenths_of_one_answer(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    draw = st.lists(st.sampled_from([0] * 12 + [1, 2]), min_size=n, max_size=n)
    predicted, labels = data.draw(draw), data.draw(draw)
    answers = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()
    found = collapsed(exam_of(answers, torch.tensor(labels))).verdict
    rest, others = (n - max(column.count(k) for k in range(3)) for column in (predicted, labels))
    assume(2 * rest != others or not others)  # floats may round either way
    assert (found is Verdict.FAIL) == (rest <= 0.1 * n and 2 * rest < others)


@given(st.permutations(range(10)))
@settings(deadline=None, max_examples=20)
def test_the_order_of_swapped_classes_is_told(order: list[int]) -> None:
    y = torch.arange(100) % 10
    answers = torch.nn.functional.one_hot(torch.tensor(order)[y], 10).float()
    found = clean_accuracy(exam_of(answers, y))
    moved = [k for k in range(10) if order[k] != k]
    assert found.verdict is (Verdict.FAIL if moved else Verdict.PASS)
    assert all(f"{k} answered as {order[k]}" in found.says for k in moved[:3])


class Linear(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def test_gradients_of_a_linear_model() -> None:
    torch.manual_seed(0)
    model = Linear(torch.randn(3, 12), torch.randn(3))
    x, y = torch.rand(30, 3, 2, 2), torch.arange(30) % 3
    exam = open_exam(model.eval(), x, y, "linear")
    top = exam.answers.argsort(1, descending=True)
    difference = (model.weight[top[:, 1]] - model.weight[top[:, 0]]).detach()
    torch.testing.assert_close(exam.slopes.margin, difference.abs().sum(1))
    p = exam.answers.softmax(1)
    cross = (p - torch.nn.functional.one_hot(exam.predicted, 3)) @ model.weight.detach()
    torch.testing.assert_close(exam.slopes.cross_entropy, cross.abs().sum(1), rtol=1e-4, atol=1e-5)


@given(st.floats(0.02, 60))
@settings(deadline=None, max_examples=6)
def test_instability_of_a_linear_model(slope: float) -> None:
    """One pixel moves the margin: |w u| / m for uniform |u| < r has the mean w r / 2 m."""
    weight = torch.zeros(2, 12)
    weight[1, 0] = slope
    x, y = torch.full((40, 3, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64)
    x[0, 0, 0, 0] = 0.0  # so that not all answers are the same
    model = Linear(weight, torch.tensor([1.0 + 0.5 * slope, 0.0])).eval()
    exam = open_exam(model, x, y, "linear")
    found = unstable(exam)
    expected = slope * RADIUS / 2
    if slope > 0.1:
        assert found.evidence["median_change"] == pytest.approx(expected, rel=0.15)
    assert (found.verdict is Verdict.FAIL) == (found.evidence["median_change"] > 0.5)  # type: ignore[operator]


@given(st.lists(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), min_size=1, max_size=8), st.data())
def test_the_margin_is_below_zero_exactly_where_the_label_leads(rows: list[list[float]], data: st.DataObject) -> None:
    logits = torch.tensor(rows)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    brute = [max(z for k, z in enumerate(row) if k != y) - row[y] for row, y in zip(rows, labels.tolist(), strict=True)]
    torch.testing.assert_close(margin(logits, labels), torch.tensor(brute))


@pytest.mark.parametrize("scaling", [*COLOURED, *GREY, *RANGES])
def test_a_scaling_is_undone(scaling: Scaling) -> None:
    x = torch.rand(4, 3, 5, 5)
    there = scaling.module(nn.Identity())(x)
    torch.testing.assert_close(scaling.undone().module(nn.Identity())(there), x, atol=1e-5, rtol=1e-5)


def test_gradients_switched_on_and_not_used_are_a_warning(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    class Careless(zoo.Around):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                return super().forward(x)

    x, y = data
    assert gradient_inside(open_exam(Careless(nets.plain), x, y, "")).verdict is Verdict.WARN
    assert gradient_inside(open_exam(torch.jit.trace(nets.plain, x[:4]), x, y, "")).verdict is Verdict.NOT_RUN


def test_no_randomness_is_seen_in_rounding(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    faint = zoo.Around(nets.plain, after=lambda z: z + 1e-6 * torch.randn_like(z))
    assert randomised(open_exam(faint, *data, "")).verdict is Verdict.PASS


def test_one_image_is_enough_to_be_examined(nets: zoo.Trained, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    findings = model_findings(nets.plain, x[:1], y[:1], "one image", num_classes=zoo.CLASSES)
    assert not codes(findings, Verdict.FAIL)
    assert codes(findings, Verdict.NOT_RUN) == {"MD03", "MD05"}


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("only for cats")


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Raises(), "ValueError: only for cats"),
        (Pair(), "tuple"),
        (nn.Conv2d(1, 4, 3), "channels"),
        (nn.Conv2d(3, 4, 3).half(), "(?i)half|type"),
    ],
)
def test_what_cannot_be_examined_is_said_at_once(model: nn.Module, reason: str, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        model_findings(model, *data, "broken", num_classes=zoo.CLASSES)
    assert raised.value.hint


@pytest.mark.parametrize("x", [torch.zeros(0, 3, 8, 8), torch.zeros(2, 3, 8), torch.zeros(2, 3, 8, 8).double()])
def test_images_of_another_kind_are_refused(x: Tensor, nets: zoo.Trained) -> None:
    with pytest.raises(UsageError, match="images"):
        system_findings(nets.plain, x, torch.zeros(len(x), dtype=torch.int64), "")
