"""Each planted fault of an attack is found by its checks, and by no unrelated one; a good attack raises none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
import zoo_attacks as zoo

from ismn_cli.audit.attack_checks import Budget, attack_findings
from ismn_cli.audit.self_test import Victim, self_test
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.checks import CHECKS
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.specs import AttackSpec, ThreatModel

BUDGET = Budget(noise_draws=50, square_queries=100, binarization_samples=4, inner_points=200)
FLAGS = (Verdict.FAIL, Verdict.WARN)
WEAK = {"AT01", "AT03", "AT05", "GM04", "GM05", "GM07", "BT01", "AT07"}
"""What may show in an attack that does too little: others find more, and more of it finds more."""


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, entry in zoo.entries().items():
        monkeypatch.setitem(ATTACKS, name, entry)
    yield


@cache
def findings(method: str) -> tuple[Finding, ...]:
    """Return what the checks say of an attack on a plain and on a hardened net, and of its self-test."""
    spec = AttackSpec(method=method, threat=ThreatModel(eps=zoo.EPS))
    found: list[Finding] = []
    for small in (zoo.plain(), zoo.hardened()):
        found += attack_findings(small.net, spec, small.x, small.y, zoo.CLASSES, "net", budget=BUDGET, cells=("a",))
    return (*found, self_test(spec, {"net": Victim(*zoo.plain())}, zoo.CLASSES, method, cells=("a",)))


@pytest.mark.parametrize(
    ("fault", "expected", "related"),
    [
        ("Good", set(), set()),
        ("StopsEarly", {"AT01", "AT03"}, WEAK),
        ("FixedSteps", {"AT01", "AT03"}, WEAK),
        ("ReturnsLast", {"AT02", "AT07"}, WEAK),
        ("SmallBall", {"AT07", "BT01"}, WEAK),
        ("SignFlip", {"AT07", "AT05", "GM04", "GM05", "BT01"}, WEAK),
        ("TinyStep", {"AT03", "AT07"}, WEAK),
        ("IgnoresRestarts", {"AT01"}, set()),
        ("ReturnsClean", {"AT02", "AT07"}, WEAK),
        ("LargeBall", {"AT07"}, set()),
        ("Crashes", {"AT07"}, set()),
    ],
)
def test_faults_are_found_by_their_checks_and_by_no_unrelated_one(
    fault: str, expected: set[str], related: set[str]
) -> None:
    found = findings(fault)
    flagged = {finding.code for finding in found if finding.verdict in FLAGS}
    assert expected <= flagged <= expected | related
    assert all(finding.code in CHECKS for finding in found)
    for finding in found:
        assert finding.says[0].isupper() and finding.says.endswith((".", "?")), finding.says
        assert finding.cells == (("a",) if finding.verdict is Verdict.FAIL else ())


@pytest.mark.parametrize("fault", ["LargeBall", "Crashes"])
def test_what_could_not_be_attacked_is_not_passed(fault: str) -> None:
    assert {finding.verdict for finding in findings(fault)} == {Verdict.NOT_RUN, Verdict.FAIL}


def test_what_an_attack_used_of_its_ball_is_told() -> None:
    says = next(finding.says for finding in findings("SmallBall") if finding.code == "AT07")
    assert "25% of the change" in says


def test_a_good_attack_passes_what_could_be_asked() -> None:
    verdicts = {finding.code: finding.verdict for finding in findings("Good")}
    assert verdicts.pop("AT04") is Verdict.NOT_RUN
    assert set(verdicts.values()) == {Verdict.PASS}


def test_nothing_is_left_changed() -> None:
    small = zoo.hardened()
    net = small.net.train()
    try:
        torch.manual_seed(3)
        before, weights = torch.get_rng_state(), [p.clone() for p in net.parameters()]
        spec = AttackSpec(method="pgd", threat=ThreatModel(eps=zoo.EPS))
        list(attack_findings(net, spec, small.x[:4], small.y[:4], zoo.CLASSES, "net", budget=BUDGET))
        assert torch.equal(before, torch.get_rng_state())
        assert all(module.training for module in net.modules())
        assert all(p.requires_grad and p.grad is None for p in net.parameters())
        assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights, strict=True))
        assert not any(module._forward_hooks for module in net.modules())
    finally:
        net.eval()


def test_findings_come_one_by_one_and_are_repeatable() -> None:
    small = zoo.plain()
    spec = AttackSpec(method="pgd", threat=ThreatModel(eps=zoo.EPS / 4))
    first, second = (
        list(attack_findings(small.net, spec, small.x[:8], small.y[:8], zoo.CLASSES, "net", 5, budget=BUDGET))
        for _ in range(2)
    )
    assert first == second
    assert len({finding.code for finding in first}) == len(first)


@pytest.mark.parametrize(("count", "eps"), [(0, zoo.EPS), (4, 0.0)])
def test_without_images_or_size_nothing_is_passed(count: int, eps: float) -> None:
    small = zoo.plain()
    spec = AttackSpec(method="pgd", threat=ThreatModel(eps=eps))
    found = list(attack_findings(small.net, spec, small.x[:count], small.y[:count], zoo.CLASSES, "net"))
    assert {finding.verdict for finding in found} == {Verdict.NOT_RUN}


def test_a_control_is_no_attack() -> None:
    small = zoo.plain()
    spec = AttackSpec(method="uniform-noise", threat=ThreatModel(eps=zoo.EPS))
    assert not list(attack_findings(small.net, spec, small.x, small.y, zoo.CLASSES, "net"))
    assert self_test(spec, {"net": Victim(*small)}, zoo.CLASSES, "noise").verdict is Verdict.NOT_RUN
