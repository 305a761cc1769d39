"""The gate's rulings: against a count by hand, monotone in the bar, and none on what cannot be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gate_cells import SIZES, B, D, S, U, a_system, attacked_result, clean_result, evidence, tables
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Audit, Finding, Verdict
from ismn_cli.core.gate import FAILED, PASSED, UNRELIABLE, Gate, Ruling, Terms, judge
from ismn_cli.core.gate_evidence import Evidence, System
from ismn_cli.core.gate_rules import Bound, parse_rules
from ismn_cli.core.specs import Knowledge, Samples, Subject
from ismn_cli.core.worst_case import trials

BARS = st.integers(0, 20).map(lambda k: k / 20)
SETTLED = tables((S, B, D))


def terms(*least: str, most: tuple[str, ...] = (), drops: tuple[str, ...] = (), **more: Any) -> Terms:
    rules = parse_rules(Bound.MIN, least) + parse_rules(Bound.MAX, most) + parse_rules(Bound.DROP, drops)
    return Terms(tuple(rules), **more)


def code(run: Evidence, asked: Terms, baseline: Evidence | None = None) -> int:
    return judge(run, asked, baseline).code


def held(right: list[bool], table: dict, eps: float) -> int:
    """Count by hand the samples that outlive every attack of that size, and are broken by none of a smaller one."""
    count = 0
    for i, before in enumerate(right):
        here = [column[i] for (_, size), column in table.items() if size == eps]
        below = [column[i] for (_, size), column in table.items() if size < eps]
        count += before and all(o is S for o in here) and not {B, D} & set(below)
    return count


@given(SETTLED, BARS)
def test_the_ruling_is_that_of_a_count_by_hand(drawn, bar: float) -> None:
    right, table = drawn
    found = judge(evidence(a_system(right, table)), terms(f"robust_accuracy={bar}", f"clean_accuracy={bar}"))
    worst = [held(right, table, eps) / len(right) for eps in SIZES]
    expected = [share >= bar for share in (*worst, sum(right) / len(right))]
    assert [case.ruling is Ruling.PASSED for case in found.cases] == expected
    assert found.code == (PASSED if all(expected) else FAILED)


@given(SETTLED, BARS, BARS, st.booleans())
def test_a_gate_that_passes_passes_at_every_lower_bar(drawn, bar: float, lower: float, confident: bool) -> None:
    assume(lower <= bar)
    run = evidence(a_system(*drawn))
    if code(run, terms(f"robust_accuracy={bar}", confident=confident)) == PASSED:
        assert code(run, terms(f"robust_accuracy={lower}", confident=confident)) == PASSED
        assert code(run, terms(f"robust_accuracy={lower}")) == PASSED


@given(SETTLED, BARS, BARS)
def test_where_less_is_better_a_higher_bar_is_easier(drawn, bar: float, higher: float) -> None:
    assume(bar <= higher and any(drawn[0]))
    run = evidence(a_system(*drawn))
    codes = [code(run, terms(most=(f"success={value}",))) for value in (bar, higher)]
    assert codes[1] <= codes[0]
    if code(run, terms(most=(f"success={bar}",), confident=True)) == PASSED:
        assert codes[0] == PASSED


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(tables((S, B, D), n), tables((S, B, D), n))), BARS, BARS)
def test_max_drop_against_a_count_by_hand_and_monotone(both, bar: float, larger: float) -> None:
    assume(bar <= larger)
    before, after = both
    runs = [evidence(a_system(*drawn)) for drawn in (after, before)]
    for eps in SIZES:
        n = len(before[0])
        drop = (held(*before, eps) - held(*after, eps)) / n
        assert (code(runs[0], terms(drops=(str(bar),), sizes=(eps,)), runs[1]) == PASSED) == (drop <= bar)
    if code(runs[0], terms(drops=(str(bar),)), runs[1]) == PASSED:
        assert code(runs[0], terms(drops=(str(larger),)), runs[1]) == PASSED
    if code(runs[0], terms(drops=(str(bar),), confident=True), runs[1]) == PASSED:
        assert code(runs[0], terms(drops=(str(bar),)), runs[1]) == PASSED


@pytest.mark.parametrize("lost", [0, 1, 9, 10, 11, 40])
def test_a_planted_drop_of_known_size(lost: int) -> None:
    n, gained = 1000, 5
    before = [S] * 500 + [B] * 500
    after = [B] * (lost + gained) + [S] * (500 - lost - gained) + [S] * gained + [B] * (500 - gained)
    runs = [evidence(a_system([True] * n, {("pgd", 0.1): column})) for column in (after, before)]
    found = judge(runs[0], terms(drops=("0.01",)), runs[1])
    assert found.code == (PASSED if lost <= 10 else FAILED)
    (case,) = found.cases
    p = binomtest(gained, lost + 2 * gained).pvalue
    assert f"{lost / 10:.1f} points below the baseline: {500 - lost} after 500 of the same 1,000" in case.says
    assert f"{lost + gained} images were lost and 5 gained: McNemar's exact p = {p:.2g}" in case.says
    assert ("beyond chance" in case.says) == (p <= 0.05)


@given(tables(), BARS)
def test_an_unsettled_sample_leaves_no_verdict(drawn, bar: float) -> None:
    right, table = drawn
    found = judge(evidence(a_system(right, table)), terms(f"robust_accuracy={bar}"))
    for eps, case in zip(SIZES, found.cases, strict=True):
        columns = [[column[i] for (_, size), column in table.items() if size == eps] for i in range(len(right))]
        smaller = [[column[i] for (_, size), column in table.items() if size < eps] for i in range(len(right))]
        unsettled = sum(
            before and U in here and B not in (*here, *below)
            for before, here, below in zip(right, columns, smaller, strict=True)
        )
        assert (case.ruling is Ruling.UNRELIABLE) == bool(unsettled)
        assert not unsettled or f"failed on {unsettled} images" in case.says


def audited(run: Evidence, *failed: str, verdict: Verdict = Verdict.FAIL, cells: Any = None) -> Audit:
    keys = tuple(r.cell.key() for r in run.systems["ismn"].trials.results)
    finding = Finding(code="GM03", verdict=verdict, subject="ismn, white-box", says="No gradient.", cells=failed)
    return Audit(run=run.run, cells=keys if cells is None else cells, findings=(finding,))


def two_sizes() -> Evidence:
    return evidence(a_system([True] * 4, {("pgd", eps): [S, S, B, B] for eps in SIZES}))


@pytest.mark.parametrize("bar", ["0.1", "0.9"])
def test_a_failed_audit_outweighs_the_figure_but_only_where_it_is_used(bar: str) -> None:
    run = two_sizes()
    keys = [r.cell.key() for r in run.systems["ismn"].trials.results]
    asked = terms(f"robust_accuracy={bar}")
    plain = judge(run, asked).code
    for verdict in Verdict:
        one = replace(run, audit=audited(run, keys[1], verdict=verdict))
        assert judge(one, asked).code == (UNRELIABLE if verdict is Verdict.FAIL else plain)
        assert judge(one, replace(asked, sizes=(SIZES[0],))).code == plain
    smaller = replace(run, audit=audited(run, keys[0]))
    (case,) = judge(smaller, replace(asked, sizes=(SIZES[1],))).cases
    assert case.ruling is Ruling.UNRELIABLE and "GM03 zero-gradient, ismn, white-box: No gradient" in case.says
    assert judge(smaller, terms("clean_accuracy=0.5")).code == PASSED


def test_a_required_audit_has_to_have_looked_at_every_cell() -> None:
    run = two_sizes()
    asked = terms("robust_accuracy=0.1", audited=True)
    assert judge(run, asked).code == UNRELIABLE
    assert judge(replace(run, audit=audited(run)), asked).code == PASSED
    assert judge(replace(run, audit=audited(run, cells=())), asked).code == UNRELIABLE
    assert judge(replace(run, audit=audited(run, cells=())), replace(asked, audited=False)).code == PASSED
    assert judge(replace(run, audit_expected=True), replace(asked, audited=False)).code == UNRELIABLE


def test_a_doubt_about_the_baseline_is_a_doubt_about_the_drop_only() -> None:
    run = two_sizes()
    keys = [r.cell.key() for r in run.systems["ismn"].trials.results]
    baseline = replace(run, run="old", audit=audited(replace(run, run="old"), *keys))
    found = judge(run, terms("robust_accuracy=0.1", drops=("0.5",)), baseline)
    assert [case.ruling for case in found.cases] == [Ruling.PASSED] * 2 + [Ruling.UNRELIABLE] * 2
    assert all("baseline: GM03" in case.says for case in found.cases if case.is_drop)


def test_nothing_is_judged_of_a_run_that_is_not_whole() -> None:
    run = replace(two_sizes(), problems=("Run 'x' is not finished.",))
    for found in (judge(run, terms("robust_accuracy=0")), judge(two_sizes(), terms(drops=("1",)), run)):
        assert found.code == UNRELIABLE and [case.says for case in found.cases] == ["Run 'x' is not finished."]


def test_an_undefined_rate_is_no_pass() -> None:
    run = evidence(a_system([False] * 3, {("pgd", 0.1): [B] * 3}))
    assert judge(run, terms(most=("success=1",))).code == UNRELIABLE


def test_a_figure_that_was_not_measured_is_no_pass() -> None:
    run = evidence(System(None, two_sizes().systems["ismn"].trials))
    assert judge(run, terms("clean_accuracy=0")).code == UNRELIABLE
    assert Gate("r", "", "", ()).code == UNRELIABLE


def test_false_positives_are_flags_without_attack() -> None:
    system = System(clean_result([True] * 20, flagged=[True] + [False] * 19), None)
    assert judge(evidence(system), terms(most=("false_positive=5%",))).code == PASSED
    assert judge(evidence(system), terms(most=("false_positive=4.9%",))).code == FAILED
    assert judge(evidence(system), terms(most=("false_positive=5%",), confident=True)).code == FAILED


def test_refusals_count_for_their_own_metric_only() -> None:
    run = evidence(a_system([True] * 4, {("pgd", 0.1): [S, D, D, B]}))
    assert judge(run, terms("robust_rejected_success=0.75", "robust_accuracy=0.25")).code == PASSED
    assert judge(run, terms("robust_rejected_success=0.76")).code == FAILED
    assert judge(run, terms("robust_accuracy=0.26")).code == FAILED


def test_a_level_is_judged_by_its_own_attacks() -> None:
    right = [True] * 4
    cells = [
        attacked_result(right, [S, S, S, B], "pgd", knowledge=Knowledge.GRAY),
        attacked_result(right, [B, S, S, B], "square", knowledge=Knowledge.BLACK),
        attacked_result(right, [B, B, S, S], "pgd", knowledge=Knowledge.WHITE),
    ]
    run = evidence(System(clean_result(right), trials(cells)[0]))
    shares = {"@gray": 0.75, "@black": 0.5, "@white": 0.5, "": 0.25}
    for level, share in shares.items():
        assert judge(run, terms(f"robust_accuracy{level}={share}")).code == PASSED
        assert judge(run, terms(f"robust_accuracy{level}={share + 0.01}")).code == FAILED
    with pytest.raises(UsageError, match="no adaptive attacks"):
        judge(run, terms("robust_accuracy@adaptive=0.1"))


def test_each_system_and_size_is_a_case_and_can_be_chosen() -> None:
    one, other = two_sizes().systems["ismn"], a_system([True] * 4, {("pgd", eps): [B] * 4 for eps in SIZES})
    run = replace(two_sizes(), systems={"ismn": one, "none": other})
    asked = terms("robust_accuracy=0.5")
    assert [(case.system, case.figure) for case in judge(run, asked).cases] == [
        ("ismn", "robust_accuracy 0.03"),
        ("ismn", "robust_accuracy 0.1"),
        ("none", "robust_accuracy 0.03"),
        ("none", "robust_accuracy 0.1"),
    ]
    assert judge(run, asked).code == FAILED
    assert judge(run, asked, only=["ismn", "ismn"]).cases == judge(run, asked).cases[:2]
    assert len(judge(run, replace(asked, sizes=(0.1, 0.1 + 1e-12)), only=["none"]).cases) == 1
    with pytest.raises(UsageError, match="'nnoe'"):
        judge(run, asked, only=["nnoe"])
    with pytest.raises(UsageError, match=r"no attack at eps 0\.2"):
        judge(run, replace(asked, sizes=(0.2,)))


def other_samples(**changes: Any) -> Samples:
    return two_sizes().systems["ismn"].clean.cell.samples.model_copy(update=changes)


def made(**changes: Any) -> Evidence:
    method, eps, column = changes.pop("method", "pgd"), changes.pop("eps", 0.1), [S, S, B, B]
    return evidence(a_system([True] * 4, {(method, eps): column}, **changes), run="old")


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        (made(samples=other_samples(ids="e" * 64)), "sample ids differ"),
        (made(samples=other_samples(data="e" * 64)), "pixels differ"),
        (made(samples=other_samples(dataset="cifar10-mini")), "data sets differ"),
        (made(method="fgsm"), "only in the run: white pgd 0.1 steps=10; only in the baseline: white fgsm 0.1 steps=10"),
        (made(knowledge=Knowledge.ADAPTIVE), "only in the baseline: adaptive pgd 0.1 steps=10"),
        (made(sources=(Subject(name="at"),)), "only in the baseline: white pgd 0.1 steps=10 from at"),
        (made(eps=0.2), "has no robust_accuracy of 'ismn' at eps 0.1"),
        (replace(made(), systems={"none": made().systems["ismn"]}), "no system in the baseline 'old' called 'ismn'"),
    ],
)
def test_a_baseline_that_differs_is_refused_with_the_reason(baseline: Evidence, says: str) -> None:
    with pytest.raises(UsageError) as error:
        judge(made(), terms(drops=("0.5",)), baseline)
    assert says in error.value.message and error.value.hint


def test_another_seed_weights_or_classifier_is_still_the_same_threat() -> None:
    changes = {"seed": 3, "defence": Subject(name="ismn", weights="e" * 64), "classifier": Subject(name="c2")}
    assert judge(made(), terms(drops=("0",)), made(**changes)).code == PASSED


@pytest.mark.parametrize(
    ("asked", "baseline", "says"),
    [
        (terms(), False, "Nothing is asked"),
        (terms(drops=("0.1",)), False, "needs a run to compare with"),
        (terms("robust_accuracy=0.1"), True, "--baseline alone"),
        (terms("clean_accuracy=0.1", sizes=(0.1,)), False, "--eps chooses among attacks"),
    ],
)
def test_terms_that_ask_nothing(asked: Terms, baseline: bool, says: str) -> None:
    with pytest.raises(UsageError) as error:
        judge(two_sizes(), asked, two_sizes() if baseline else None)
    assert says in error.value.message and error.value.hint


def test_a_run_without_attacks_has_nothing_to_say_about_robustness() -> None:
    with pytest.raises(UsageError, match="No system was attacked"):
        judge(evidence(System(clean_result([True]), None)), terms("robust_accuracy=0.1"))
