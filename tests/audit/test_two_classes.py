"""Two classes, with two logits or with one wrapped as [0, z]: no check needs a third."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import zoo_models as zoo
from audit_cells import ADAPTIVE, GRAY, WHITE, N, attacked, clean
from torch import Tensor, nn

from ismn_cli.attacks.params import resolve_params
from ismn_cli.audit.answer_checks import collapsed
from ismn_cli.audit.attack_checks import Budget, attack_findings
from ismn_cli.audit.exam import Exam
from ismn_cli.audit.model_checks import model_findings, system_findings
from ismn_cli.audit.readout import features_of
from ismn_cli.audit.records import record_findings
from ismn_cli.audit.self_test import Victim, self_test
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.records import Answers, CellResult
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.normalised import Normalised
from ismn_models.pipeline import Defence, Pipeline


def codes(findings: list[Finding], verdict: Verdict) -> set[str]:
    return {finding.code for finding in findings if finding.verdict is verdict}


def told(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    return found


class ZeroZ(nn.Module):
    """A net of one output z as [0, z], its last layer the difference of a net's two."""

    def __init__(self, net: zoo.Net) -> None:
        super().__init__()
        self.net = zoo.copied(net)
        last = nn.Linear(net.out.in_features, 1)
        with torch.no_grad():
            last.weight.copy_(net.out.weight[1:] - net.out.weight[:1])
            last.bias.copy_(net.out.bias[1:] - net.out.bias[:1])
        self.net.out = last.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return torch.cat([torch.zeros_like(z), z], 1)


@cache
def binary() -> zoo.Net:
    return zoo.trained(classes=2)


FORMS: dict[str, Callable[[], nn.Module]] = {"two logits": binary, "[0, z]": lambda: ZeroZ(binary())}


def exam(answers: Tensor, y: Tensor) -> Exam:
    """An exam whose model is never asked."""
    x = torch.zeros(len(y), 3, 2, 2)
    return Exam(nn.Identity(), x, y, "planted", tuple(answers.shape), answers, answers.shape[1])


def single(z: Tensor) -> Tensor:
    return z[:, 1:] - z[:, :1]


def wrapped(z: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(z[:, :1]), single(z)], 1)


@pytest.mark.parametrize("form", FORMS)
def test_sound_models_fail_nothing(form: str) -> None:
    model, (x, y) = FORMS[form](), zoo.images(120, 2, classes=2)
    findings = model_findings(model, x, y, form, num_classes=2, expected=0.99)
    assert not codes(findings, Verdict.FAIL)
    assert not codes(findings, Verdict.NOT_RUN)
    system = system_findings(Pipeline(model, Defence()).eval(), x, y, form)
    assert {finding.verdict for finding in system} == {Verdict.PASS}


PLANTED: dict[str, tuple[set[str], Callable[[nn.Module], nn.Module]]] = {
    "noise in the pixels": ({"RN02"}, lambda net: zoo.Around(net, lambda x: x + 0.02 * torch.randn_like(x), wrapped)),
    "faint noise": ({"RN02"}, lambda net: zoo.Around(net, lambda x: x + 1e-3 * torch.randn_like(x), wrapped)),
    "gradient detached": ({"GM03", "GM10"}, lambda net: zoo.Around(net, after=lambda z: wrapped(z).detach())),
    "saturated": ({"GM03", "GM12"}, lambda net: zoo.Around(net, after=lambda z: 1000 * wrapped(z))),
    "probabilities": ({"GM08"}, lambda net: zoo.Around(net, after=lambda z: wrapped(z).softmax(1))),
    "classes swapped": ({"MD03"}, lambda net: zoo.Around(net, after=lambda z: -wrapped(z))),
    "constant": ({"EV05", "MD03"}, lambda net: zoo.Around(net, after=lambda z: 0 * wrapped(z) + torch.eye(2)[0])),
    "not normalised inside": ({"MD07"}, lambda net: zoo.Around(net, lambda x: zoo._scaled(x, *zoo.IMAGENET), wrapped)),
}
"""Faults: what fails, at least, and the model."""


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_is_found(fault: str) -> None:
    fails, build = PLANTED[fault]
    findings = model_findings(build(binary()), *zoo.images(120, 2, classes=2), fault, num_classes=2)
    assert fails <= codes(findings, Verdict.FAIL), [f.says for f in findings if f.verdict is not Verdict.PASS]


def test_a_normalisation_declared_around_one_output_is_known_as_such() -> None:
    x, y = zoo.images(120, 2, classes=2)
    one = zoo.Around(binary(), after=single)
    found = told(model_findings(Normalised(one, (0.4,), (0.2,)), x, y, "one", num_classes=2), "MD07")
    assert "leave --mean and --std away" in found.says
    needed = Normalised(zoo.Around(one, before=lambda x: 0.2 * x + 0.4), (0.4,), (0.2,))
    assert not codes(model_findings(needed, x, y, "one", num_classes=2), Verdict.FAIL) - {"MD04"}


@pytest.mark.parametrize("rare", [10, 20])
def test_answers_as_unequal_as_the_classes_are_no_collapse(rare: int) -> None:
    """Nineteen twentieths of a class of nine tenths is a classifier; never the rare one is none."""
    labels = (torch.arange(200) < rare).long()
    near = nn.functional.one_hot((torch.arange(200) < 0.6 * rare).long(), 2).float()
    assert collapsed(exam(near, labels)).verdict is Verdict.PASS
    assert collapsed(exam(torch.eye(2)[:1].expand(200, 2), labels)).verdict is Verdict.FAIL


def test_the_layer_behind_zero_and_z_can_be_replaced() -> None:
    model, (x, _) = FORMS["[0, z]"](), zoo.images(6, 2, classes=2)
    assert isinstance(model, ZeroZ)
    features = features_of(model, x[:2])
    assert features is not None
    assert torch.allclose(model.net.out(features(x)), model(x)[:, 1:], atol=1e-6)
    turned = nn.Sequential(model, nn.Linear(2, 2, bias=False))
    turned[1].weight.data = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # [z, 0] is the last layer's own answer
    found = features_of(turned.eval(), x[:2])
    assert found is not None and found(x).shape == (6, 2)


SETTINGS: dict[str, dict[str, object]] = {
    "pgd": {"steps": 80, "alpha": "eps/8"},
    "autoattack": {"version": "custom", "attacks": "apgd-ce+apgd-dlr+apgd-t"},
    "apgdt": {"steps": 50},
    "cw-search": {"steps": 60, "search_steps": 3},
}


@pytest.mark.parametrize(
    ("method", "form"),
    [("pgd", "two logits"), *((method, "[0, z]") for method in ("pgd", "apgdt", "autoattack", "cw-search"))],
)
def test_the_checks_of_an_attack_need_no_third_class(method: str, form: str) -> None:
    """A sound attack on a sound model fails nothing, and what is left out has nothing to do with classes."""
    model, (x, y) = FORMS[form](), zoo.images(10, 2, classes=2)
    norm, eps = (Norm.L2, 0.3) if method == "cw-search" else (Norm.LINF, zoo.EPS)
    spec = resolve_params(method, ThreatModel(norm=norm, eps=eps), SETTINGS[method])
    budget = Budget(noise_draws=20, square_queries=50, binarization_samples=2, inner_points=100)
    findings = list(attack_findings(model, spec, x, y, 2, "two", budget=budget))
    assert not codes(findings, Verdict.FAIL), [f.says for f in findings if f.verdict is Verdict.FAIL]
    assert told(findings, "BT01").verdict in (Verdict.PASS, Verdict.WARN)
    left_out = codes(findings, Verdict.NOT_RUN)
    assert left_out <= {"AT01", "AT03", "AT04"} | ({"AT05", "AT06", "GM04"} if norm is Norm.L2 else set())


@pytest.mark.parametrize("form", FORMS)
def test_the_self_test_works_on_two_classes(form: str) -> None:
    model, (x, y) = FORMS[form](), zoo.images(40, 2, classes=2)
    idle = resolve_params("pgd", ThreatModel(eps=zoo.EPS), {"steps": 1, "alpha": 1e-9, "random_start": False})
    assert self_test(idle, {"net": Victim(model, x, y)}, 2, "idle").verdict is Verdict.FAIL


def of_two(result: CellResult) -> CellResult:
    """Return the cell with class k of ten as k mod 2: right answers stay right, wrong ones wrong."""

    def answers(given: Answers) -> Answers:
        return given.model_copy(update={"predicted": tuple(label % 2 for label in given.predicted)})

    labels = tuple(label % 2 for label in result.labels)
    more = {"attacked": answers(result.attacked)} if result.attacked else {}
    return result.model_copy(update={"labels": labels, "clean": answers(result.clean), **more})


def test_stored_cells_of_two_classes_are_read_as_those_of_ten() -> None:
    few = ("autoattack: classes: 2 are too few for the DLR loss of apgd-t; its margin alone stands in",)
    ten = [
        clean("ddsa"),
        attacked("ddsa", "fgsm", range(40), level=GRAY),
        attacked("ddsa", "pgd", range(30), level=WHITE),
        attacked("ddsa", "autoattack", range(10), level=ADAPTIVE, params={"version": "standard"}, notes=few),
        attacked("ddsa", "pgd", range(8), 0.6, level=WHITE),
    ]
    found = record_findings([of_two(result) for result in ten])
    assert [(f.code, f.verdict) for f in found if f.code != "GM04"] == [
        (f.code, f.verdict) for f in record_findings(ten) if f.code != "GM04"
    ]
    assert {told([f], "GM04").evidence["chance"] for f in found if f.code == "GM04" and f.evidence} == {0.5}
    assert all(f.verdict is Verdict.PASS for f in found if f.says.startswith("AutoAttack's own check"))


def test_a_quarter_right_in_grey_pictures_is_less_than_guessing_between_two() -> None:
    """A third of the images, still right where all can be made grey: of ten classes it would be too much."""
    held = [clean("none"), attacked("none", "pgd", range(33), 0.5, level=WHITE)]
    for results, verdict in ((held, Verdict.FAIL), ([of_two(r) for r in held], Verdict.PASS)):
        (found,) = [f for f in record_findings(results) if f.code == "GM04"]
        assert found.verdict is verdict
    assert len(held[0].ids) == N
