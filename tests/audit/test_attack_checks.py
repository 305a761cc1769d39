"""Checks of an attack that take a model of their own to show: leaking, saturated, drawing at random, or guarded."""

from __future__ import annotations

import pytest
import torch
import zoo_attacks as zoo
from torch import Tensor, nn

from ismn_cli.attacks.adapter import resolve_params
from ismn_cli.audit.attack_checks import Budget, attack_findings
from ismn_cli.audit.binarization import Tally, binarization
from ismn_cli.audit.case import Case
from ismn_cli.audit.effort_checks import converged, large_eps, transfer_failure, unbounded_fails
from ismn_cli.audit.path_checks import incomplete_optimisation, silent_success
from ismn_cli.audit.rival_checks import gradient_free_wins, label_leaking, logit_scale, noise_wins
from ismn_cli.audit.self_test import WEAK, Victim, self_test
from ismn_cli.audit.still import Still, fixed_randomness
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.findings import Verdict
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_models.pipeline import Reading, Surrogate


def case(model: nn.Module, small: zoo.Small, method: str = "pgd", eps: float = zoo.EPS, **params: object) -> Case:
    norm = ATTACKS[method].norms[0]
    spec = resolve_params(method, ThreatModel(norm=norm, eps=eps), params)  # type: ignore[arg-type]
    return Case(model, spec, small.x, small.y, zoo.CLASSES, "net", 0, ("a",))


# GM12


def test_logits_that_saturate_are_found() -> None:
    small = zoo.hardened()
    found = logit_scale(case(zoo.Saturated(small.net), small))
    assert found.verdict is Verdict.FAIL
    kept = found.evidence["kept"]
    assert isinstance(kept, dict)
    assert kept["ce"] > kept["scaled-ce"]  # type: ignore[operator]
    assert kept["scaled-ce"] == kept["margin"]
    assert logit_scale(case(small.net, small)).verdict is Verdict.PASS


def test_saturated_logits_show_in_what_a_cross_entropy_attack_misses() -> None:
    small = zoo.hardened()
    blind = case(zoo.Saturated(small.net), small, "bim")
    assert unbounded_fails(blind).verdict is Verdict.FAIL
    assert large_eps(blind).verdict is Verdict.FAIL
    searched = gradient_free_wins(blind, 150)
    assert searched.verdict is Verdict.FAIL and searched.cells == ("a",)


# AT05 and GM04 behind a detector


def test_a_refusal_is_no_success_of_an_attack_and_no_accuracy_either() -> None:
    small = zoo.plain()
    strict = Surrogate(small.net, lambda x: Reading(small.net(x), (x - 0.5).square().flatten(1).mean(1) - 0.002))
    asked = case(strict, small)
    free = unbounded_fails(asked)
    assert free.verdict is Verdict.FAIL
    assert free.evidence["refused"] == free.evidence["kept"] == len(asked.attacked)
    assert "detector was not" in free.says
    assert large_eps(asked).verdict is Verdict.PASS


# AT06


def test_a_net_that_reads_the_label_off_the_step_is_found() -> None:
    small = zoo.Small(zoo.plain().net, *zoo.images(200, 1, 0.0))
    found = label_leaking(case(zoo.Leaky(small.net, small.x), small))
    assert found.verdict is Verdict.FAIL
    shares = found.evidence
    assert shares["true_label"] > shares["predicted_label"]  # type: ignore[operator]
    for good in (zoo.plain(), zoo.hardened()):
        assert label_leaking(case(good.net, good)).verdict is Verdict.PASS


# RN01


def test_success_by_the_luck_of_the_draw_is_found() -> None:
    """Noise breaks the samples, not the attack: held still they stand."""
    small = zoo.plain()
    noisy = zoo.Noisy(small.net, 0.08)
    weak = case(noisy, small, steps=1, alpha=1e-6, random_start=False)
    held = case(Still(noisy, 0), small, steps=1, alpha=1e-6, random_start=False)
    # Judged anew: other draws than those by which the samples were right at first.
    found = fixed_randomness(_redrawn(weak), held)
    assert found.verdict is Verdict.FAIL
    assert "fixed draws" in found.says


def _redrawn(weak: Case) -> Case:
    """Return the case with a model that draws by itself, whatever the global generator is seeded with."""
    own = torch.Generator().manual_seed(0)

    class Own(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x + 0.08 * torch.randn(x.shape, generator=own))
            return logits

    return Case(Own(weak.model.net), weak.spec, weak.x, weak.y, zoo.CLASSES, "net")  # type: ignore[arg-type]


def test_a_good_attack_succeeds_against_draws_held_still() -> None:
    small = zoo.plain()
    noisy = zoo.Noisy(small.net, 0.02)
    found = {finding.code: finding for finding in _findings(noisy, small)}
    assert found["RN01"].verdict is Verdict.PASS
    assert "fixed draws" in found["RN01"].says
    flagged = {code for code, finding in found.items() if finding.verdict in (Verdict.FAIL, Verdict.WARN)}
    assert not flagged
    plain = {finding.code: finding for finding in _findings(small.net, small)}
    assert "no randomness" in plain["RN01"].says


def _findings(model: nn.Module, small: zoo.Small) -> list:  # type: ignore[type-arg]
    spec = resolve_params("pgd", ThreatModel(eps=zoo.EPS), {})
    budget = Budget(noise_draws=10, square_queries=20, binarization_samples=2, inner_points=60)
    return list(attack_findings(model, spec, small.x[:12], small.y[:12], zoo.CLASSES, "net", budget=budget))


# AT04


def test_what_fools_the_stand_in_and_not_the_system_is_counted() -> None:
    small = zoo.plain()
    attacked = case(small.net, small)
    assert transfer_failure(attacked, None).verdict is Verdict.NOT_RUN
    whole = transfer_failure(attacked, lambda x, y: small.net(x).argmax(1) != y)
    assert whole.verdict is Verdict.PASS
    total = int(attacked.base.fooled.sum())
    assert whole.evidence == {"fooled": total, "not_transferred": 0}
    none = transfer_failure(attacked, lambda x, y: torch.zeros(len(x), dtype=torch.bool))
    assert none.verdict is Verdict.FAIL and none.evidence["not_transferred"] == total
    one = transfer_failure(attacked, lambda x, y: torch.arange(len(x)) > 0)
    assert one.evidence["not_transferred"] == 1
    other = zoo.hardened()
    assert transfer_failure(case(other.net, other, eps=1e-4), lambda x, y: y > 0).verdict is Verdict.NOT_RUN


# What does not apply


@pytest.mark.parametrize("method", ["fgsm", "pgdl2", "square", "cw-search", "deepfool"])
def test_what_an_attack_cannot_be_asked_is_not_run(method: str) -> None:
    small = zoo.hardened()
    params = {"n_queries": 20} if method == "square" else {}
    asked = case(small.net, small, method, **params)
    if method == "fgsm":
        checks = (incomplete_optimisation, large_eps, unbounded_fails, converged)
    elif method == "square":
        checks = (logit_scale, lambda c: gradient_free_wins(c, 10))  # type: ignore[assignment]
    else:
        checks = (large_eps, unbounded_fails, label_leaking)  # type: ignore[assignment]
    for check in checks:
        assert check(asked).verdict is Verdict.NOT_RUN


def test_a_budget_of_0_leaves_a_check_out() -> None:
    small = zoo.hardened()
    spec = resolve_params("pgd", ThreatModel(eps=zoo.EPS), {})
    none = Budget(noise_draws=0, square_queries=0, binarization_samples=0)
    found = attack_findings(small.net, spec, small.x[:4], small.y[:4], zoo.CLASSES, "net", budget=none)
    left_out = {finding.code for finding in found if "left out" in finding.says and finding.verdict is Verdict.NOT_RUN}
    assert left_out == {"GM05", "GM07", "BT01"}


class OnceOnly(nn.Module):
    """A net that gives out after so many passes."""

    def __init__(self, net: nn.Module, passes: int) -> None:
        super().__init__()
        self.net, self.passes = net, passes

    def forward(self, x: Tensor) -> Tensor:
        self.passes -= 1
        if self.passes < 0 and torch.is_grad_enabled():
            raise RuntimeError("no more")
        logits: Tensor = self.net(x)
        return logits


def test_a_rival_that_crashes_has_not_lost() -> None:
    small = zoo.hardened()
    asked = case(OnceOnly(small.net, 12), small, steps=10)
    assert not asked.base.failed.any() and len(asked.left)
    asked.model.passes = 0  # type: ignore[assignment]
    checks = (large_eps, unbounded_fails, logit_scale, label_leaking, binarization)
    assert {check(asked).verdict for check in checks} == {Verdict.NOT_RUN}


def test_noise_and_silence_are_told_with_what_was_spent() -> None:
    small = zoo.hardened()
    left = case(small.net, small)
    assert "10,000" in noise_wins(left, 5).says
    assert silent_success(left).evidence["samples"] == len(left.attacked)
    gone = case(small.net, small, eps=0.5)
    assert not len(gone.left)
    for check in (converged, incomplete_optimisation):
        assert check(gone).verdict is Verdict.PASS


# AT07


def test_a_weak_defence_is_expected_to_fall_less_often() -> None:
    small = zoo.plain()
    spec = resolve_params("pgd", ThreatModel(eps=0.2), {})
    victims = {"bare": Victim(*small), "weak": Victim(*small, weak=True)}
    found = self_test(spec, victims, zoo.CLASSES, "pgd")
    assert found.verdict is Verdict.PASS
    bare, weak = found.evidence["bare"], found.evidence["weak"]
    assert isinstance(bare, dict) and isinstance(weak, dict)
    assert weak["expected"] == pytest.approx(WEAK * bare["expected"])  # type: ignore[operator]
    assert bare["moved"] == pytest.approx(1, abs=1e-4), "brought to the reference size"
    assert self_test(spec, {}, zoo.CLASSES, "pgd").verdict is Verdict.NOT_RUN


def test_a_victim_that_stands_fails_the_attack() -> None:
    hard = zoo.hardened()
    spec = resolve_params("pgd", ThreatModel(eps=0.2), {"steps": 1, "alpha": 0.001})
    found = self_test(spec, {"net": Victim(*zoo.plain()), "hard": Victim(*hard)}, zoo.CLASSES, "pgd", cells=("a",))
    assert found.verdict is Verdict.FAIL and found.cells == ("a",)


def test_a_victim_is_searched_in_its_stead_and_asked_itself() -> None:
    """What stands for it while it is searched may be off by a little; what counts is what the victim says."""
    net, x, y = zoo.plain()
    spec = resolve_params("pgd", ThreatModel(eps=0.2), {})
    flat = Surrogate(net, lambda points: Reading(net(points) * 0))
    wrong = Surrogate(net, lambda points: Reading(net(points).roll(1, 1)))
    assert self_test(spec, {"net": Victim(net, x, y, searched=net)}, zoo.CLASSES, "pgd").verdict is Verdict.PASS
    for blind in (flat, wrong):
        found = self_test(spec, {"net": Victim(net, x, y, searched=blind)}, zoo.CLASSES, "pgd")
        assert found.verdict is not Verdict.PASS, "its gradients lead nowhere, and it is not what is asked"


# BT01


def test_a_detector_is_obeyed_and_turned_round() -> None:
    """Random points on the surface pass the detector, its corners do not: an attack that ignores it ends there."""
    small = zoo.plain()
    watchful = Surrogate(small.net, lambda x: Reading(small.net(x), (x - 0.5).square().flatten(1).mean(1) - 0.0016))
    knowing, ignorant = (
        binarization(case(watchful, small, "pgd-ensemble", loss="margin", detector=way, steps=30), 5, 150)
        for way in ("selective", "ignore")
    )
    assert knowing.verdict is Verdict.PASS
    assert {"as it is", "turned round"} <= set(knowing.evidence)
    assert ignorant.verdict is Verdict.FAIL
    found = ignorant.evidence["as it is"]
    assert isinstance(found, dict) and found["found"] < found["total"] == 5  # type: ignore[operator]


def test_what_no_detector_flags_cannot_be_turned_round() -> None:
    small = zoo.plain()
    blind = Surrogate(small.net, lambda x: Reading(small.net(x), x.new_full((len(x),), -1.0)))
    found = binarization(case(blind, small), 3, 60)
    assert found.evidence["turned round"] == {"found": 0, "random": 0, "total": 0, "skipped": 3}
    assert found.verdict is Verdict.PASS


def test_few_features_make_do_with_fewer_points_and_say_so() -> None:
    torch.manual_seed(0)
    small = zoo.plain()
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 60), nn.Tanh(), nn.Linear(60, zoo.CLASSES)).eval()
    y = net(small.x).argmax(1)
    found = binarization(case(net, small._replace(y=y)), 3)
    assert found.evidence["inner_points"] == 58
    assert "58 points" in found.says
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, zoo.CLASSES)).eval()
    assert binarization(case(tiny, small._replace(y=tiny(small.x).argmax(1))), 3).verdict is Verdict.NOT_RUN


def test_what_cannot_be_binarised_is_not_run() -> None:
    small = zoo.plain()
    found = binarization(case(nn.Sequential(small.net, nn.LogSoftmax(1)), small), 2, 50)
    assert found.verdict is Verdict.NOT_RUN and "linear" in found.says
    many = binarization(case(small.net, small, "apgd", loss="dlr", steps=2), 2, 50)
    assert many.verdict is Verdict.NOT_RUN and "two" in many.says


def test_what_random_points_find_says_little_of_an_attack() -> None:
    assert Tally(found=10, random=0, total=10, skipped=0).verdict is Verdict.PASS
    assert Tally(found=10, random=5, total=10, skipped=0).verdict is Verdict.WARN
    assert Tally(found=9, random=0, total=10, skipped=0).verdict is Verdict.WARN
    assert Tally(found=7, random=0, total=10, skipped=0).verdict is Verdict.FAIL
    assert Tally(found=0, random=0, total=10, skipped=0).verdict is Verdict.FAIL


@pytest.mark.parametrize("norm", list(Norm))
def test_a_planted_example_is_missed_by_an_attack_that_does_nothing(norm: Norm) -> None:
    small = zoo.plain()
    method = "pgd" if norm is Norm.LINF else "pgdl2"
    idle = binarization(case(small.net, small, method, 0.1, steps=1, alpha=1e-9, random_start=False), 4, 100)
    assert idle.verdict is Verdict.FAIL
    assert idle.evidence["as it is"] == {"found": 0, "random": 0, "total": 4, "skipped": 0}
    assert binarization(case(small.net, small, method, 0.1, steps=20), 4, 100).verdict is Verdict.PASS
