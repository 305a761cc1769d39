"""The audit of stored cells: each planted fault is found by its check, and by no unrelated one."""

from __future__ import annotations

import math

import pytest
from audit_cells import ADAPTIVE, BLACK, GRAY, WHITE, N, answers, attacked, cell, clean
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.audit.compare import Missed, missed
from ismn_cli.audit.records import record_findings
from ismn_cli.core.checks import CHECKS
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.specs import Norm, Subject


def honest(system: str = "ddsa") -> list[CellResult]:
    """A defended system and its bare classifier, as a good evaluation finds them."""
    found = [clean("none"), clean(system, 88)]
    for eps, kept in ((8 / 255, 40), (0.2, 5)):
        found += [attacked("none", method, range(4 if method == "fgsm" else 0), eps) for method in ("fgsm", "pgd")]
        found += [attacked("none", "pgd", range(0), eps, WHITE), attacked("none", "square", range(10), eps, BLACK)]
        found += [attacked(system, "fgsm", range(kept + 20), eps, right=88)]
        found += [attacked(system, "pgd", range(kept + 15), eps, right=88)]
        found += [attacked(system, "square", range(kept + 12), eps, BLACK, right=88)]
        found += [attacked(system, "pgd", range(kept + 5), eps, WHITE, right=88)]
        found += [attacked(system, "pgd-ensemble", range(kept), eps, ADAPTIVE, right=88)]
    return found


def flagged(findings: list[Finding], *verdicts: Verdict) -> set[str]:
    return {f.code for f in findings if f.verdict in (verdicts or (Verdict.FAIL, Verdict.WARN))}


def without(results: list[CellResult], *, system: str = "ddsa", method: str, level: object) -> list[CellResult]:
    def is_it(r: CellResult) -> bool:
        attack = r.cell.attack
        return bool(attack and attack.method == method and r.cell.knowledge is level and r.cell.defence.name == system)

    return [r for r in results if not is_it(r)]


def test_an_honest_evaluation_raises_nothing() -> None:
    findings = record_findings(honest(), {("x", Norm.LINF, 0.2): 1.0})
    assert flagged(findings) == set()
    assert {f.code for f in findings} <= set(CHECKS)
    assert {f.subject for f in findings} == {"none", "ddsa", "ddsa, examples made elsewhere"}


def test_what_cannot_be_run_has_not_passed() -> None:
    findings = record_findings([clean("ddsa"), attacked("ddsa", "pgd", range(30), right=90)])
    not_run = {f.code for f in findings if f.verdict is Verdict.NOT_RUN}
    assert {"EV04", "GM02", "GM05", "GM06", "EV03", "CL01", "AT04"} <= not_run
    assert all(f.says for f in findings)
    assert "EV01" in flagged(findings, Verdict.WARN), "gray-box alone is not a worst case"


def test_a_stronger_attacker_who_finds_less_fails_the_order() -> None:
    results = without(honest(), method="pgd", level=WHITE)
    results.append(attacked("ddsa", "pgd", range(80), 8 / 255, WHITE, right=88))
    (fails,) = [f for f in record_findings(results) if f.verdict is Verdict.FAIL]
    assert (fails.code, fails.subject) == ("EV04", "ddsa")
    assert "25 images" in fails.says
    assert fails.cells == (results[-1].cell.key(),), "the figure of the one who knows more is not to be relied on"


def test_one_image_out_of_order_is_a_warning() -> None:
    results = without(honest(), method="pgd-ensemble", level=ADAPTIVE)
    for eps, kept in ((8 / 255, 40), (0.2, 5)):
        held = [*range(kept - 1), 70]  # one that white-box broke, and fewer than it in all
        results.append(attacked("ddsa", "pgd-ensemble", held, eps, ADAPTIVE, right=88))
    assert flagged(record_findings(results)) == {"EV04"}
    assert flagged(record_findings(results), Verdict.FAIL) == set()


@pytest.mark.parametrize("level, verdict", [(WHITE, Verdict.FAIL), (GRAY, Verdict.WARN)])
def test_many_steps_worse_than_one(level: object, verdict: Verdict) -> None:
    results = [clean("ddsa", 88), attacked("ddsa", "fgsm", range(10), level=level, right=88)]
    results.append(attacked("ddsa", "pgd", range(60), level=level, right=88))
    found = [f for f in record_findings(results) if f.code == "GM01"]
    assert [f.verdict for f in found] == [verdict]
    if level is WHITE:
        assert flagged(record_findings(results), Verdict.FAIL) == {"GM01"}


def test_an_attack_that_takes_over_the_breaks_of_another_proves_nothing() -> None:
    first = attacked("ddsa", "fgsm", range(10), level=WHITE, right=88)
    chained = attacked("ddsa", "pgd", range(10), level=WHITE, right=88, after=(first.cell.attack,))
    found = [f for f in record_findings([clean("ddsa", 88), first, chained]) if f.code == "GM01"]
    assert [f.verdict for f in found] == [Verdict.NOT_RUN]


def test_accuracy_that_rises_with_eps() -> None:
    results = [clean("none")]
    results += [attacked("none", "pgd", range(kept), eps, WHITE) for kept, eps in ((0, 0.1), (40, 0.2))]
    found = [f for f in record_findings(results) if f.code == "GM02"]
    assert [f.verdict for f in found] == [Verdict.FAIL]


def test_square_beyond_gradients() -> None:
    results = without(honest(), method="square", level=BLACK)
    results.append(attacked("ddsa", "square", range(10), 8 / 255, BLACK, right=88))
    assert flagged(record_findings(results), Verdict.FAIL) == {"GM05"}


def test_transfer_beyond_the_white_box() -> None:
    twin = (Subject(name="at", weights="a" * 64),)
    results = [*honest(), attacked("ddsa", "pgd", range(20, 88), 8 / 255, BLACK, right=88, sources=twin)]
    assert flagged(record_findings(results), Verdict.FAIL) == {"GM06"}


def test_noise_beyond_the_attacks() -> None:
    results = [*honest(), attacked("ddsa", "uniform-noise", range(20, 88), 8 / 255, GRAY, right=88)]
    assert "GM07" in flagged(record_findings(results), Verdict.FAIL)


def test_an_undefended_classifier_that_holds() -> None:
    results = [clean("none"), attacked("none", "pgd", range(40)), attacked("none", "fgsm", range(50))]
    assert flagged(record_findings(results), Verdict.FAIL) == {"EV02"}


def test_a_constant_answer() -> None:
    result = clean("ddsa")
    constant = result.clean.model_copy(update={"predicted": (3,) * N})
    assert flagged(record_findings([result.model_copy(update={"clean": constant})])) == {"EV05"}


def test_an_attack_that_fails_leaves_its_images_unknown() -> None:
    results = [clean("none"), attacked("none", "pgd", range(0), failed=range(30), notes=("it gave NaN",))]
    (found,) = [f for f in record_findings(results) if f.code == "AT08"]
    assert found.verdict is Verdict.FAIL
    assert "it gave NaN" in found.says
    assert found.cells == (results[1].cell.key(),)
    beside = [*results, attacked("none", "fgsm", range(3))]
    (found,) = [f for f in record_findings(beside) if f.code == "AT08"]
    assert found.verdict is Verdict.WARN, "another attack decides"


def test_a_threshold_that_moves() -> None:
    low, high = [i / N for i in range(N)], [1 + i / N for i in range(N)]
    still = [clean("magnet", score=low), attacked("magnet", "pgd", range(0), refused=range(N), scores=(low, high))]
    assert flagged(record_findings(still), Verdict.FAIL) == set()
    moved = attacked("magnet", "fgsm", range(0), refused=range(50), scores=(low, low))
    found = flagged(record_findings([*still, moved]), Verdict.FAIL)
    assert found == {"DT02"}


def test_figures_above_the_ceiling() -> None:
    key = cell("none").samples.key()
    results = [attacked("ddsa", "pgd", range(80), 0.3, level, right=88) for level in (GRAY, WHITE)]
    for result, verdict in zip(results, (Verdict.WARN, Verdict.FAIL), strict=True):
        (found,) = [f for f in record_findings([result], {(key, Norm.LINF, 0.3): 0.678}) if f.code == "CL01"]
        assert found.verdict is verdict
        assert "67.8%" in found.says
    (found,) = [f for f in record_findings(results[:1], {(key, Norm.LINF, 0.3): 0.95}) if f.code == "CL01"]
    assert found.verdict is Verdict.PASS


def test_refusals_that_make_a_record() -> None:
    low, high = [i / N for i in range(N)], [1 + i / N for i in range(N)]
    first = clean("magnet", score=low)
    refusing = first.model_copy(
        update={"clean": answers([True] * N, [i == 99 for i in range(N)], [*low[:-1], 5.0])}
    )
    wild = attacked("magnet", "pgd", range(0), 0.2, WHITE, refused=range(N), scores=([*low[:-1], 5.0], high))
    found = {f.code: f.verdict for f in record_findings([refusing, wild])}
    assert found["CL02"] is Verdict.FAIL


def test_nothing_holds_where_every_image_is_allowed() -> None:
    for eps, kept, verdict in ((0.5, 10, Verdict.PASS), (0.5, 40, Verdict.FAIL), (1.0, 1, Verdict.FAIL)):
        results = [clean("none"), attacked("none", "pgd", range(kept), eps)]
        (found,) = [f for f in record_findings(results) if f.code == "GM04"]
        assert found.verdict is verdict, (eps, kept)


def test_noise_owes_no_success() -> None:
    results = [clean("none"), attacked("none", "gn", range(60), 1.0, params={"std": 0.2})]
    assert "GM04" not in {f.code for f in record_findings(results)}


def test_what_autoattack_says_of_itself() -> None:
    notes = ("system: autoattack: zero gradient: for some images APGD starts without a gradient",)
    results = [clean("none"), attacked("none", "autoattack", range(0), level=WHITE, notes=notes)]
    found = {f.code: f.verdict for f in record_findings(results)}
    assert found["GM03"] is Verdict.FAIL
    assert found["GM08"] is found["GM09"] is found["RN02"] is Verdict.PASS


COLUMNS = st.lists(st.sampled_from(list(Outcome)), min_size=0, max_size=40)


@given(st.data())
def test_missed_counts_what_a_person_would_count(data: st.DataObject) -> None:
    strong = data.draw(COLUMNS)
    weak = data.draw(st.lists(st.sampled_from(list(Outcome)), min_size=len(strong), max_size=len(strong)))
    found = missed("x", strong, weak)
    untold = {Outcome.UNKNOWN, Outcome.WRONG_CLEAN}
    ran = [(s, w) for s, w in zip(strong, weak, strict=True) if {s, w}.isdisjoint(untold)]
    assert found.total == len(ran)
    assert found.missed - found.more == sum(w is Outcome.BROKEN for _, w in ran) - sum(
        s is Outcome.BROKEN for s, _ in ran
    )


@given(st.integers(0, 30), st.integers(0, 30))
def test_p_is_the_tail_of_fair_coins(only_weak: int, only_strong: int) -> None:
    n = only_weak + only_strong
    tail = sum(math.comb(n, k) for k in range(only_weak, n + 1)) / 2**n
    assert Missed("x", only_weak, only_strong, n).p_value() == pytest.approx(tail if n else 1.0)
