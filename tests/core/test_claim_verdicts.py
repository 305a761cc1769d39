"""The verdict on a published figure: its rule, what it may not say, and which reading comes nearest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from core_cells import a_cell, answers
from hypothesis import assume, given
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from ismn_cli.core.claim_verdicts import (
    TOLERANCE,
    Accounting,
    Comparison,
    Estimate,
    Evidence,
    Trial,
    Verdict,
    compare,
    estimate,
    fits,
    nearest,
    reproduces,
    trials_of,
)
from ismn_cli.core.claims import AttackReading, Claim, Claims, Reading
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import CellResult

SHARES = st.floats(0, 1)
LINF = Reading(name="linf", means="L-inf", attacks=(AttackReading(method="pgd"),))
NOISE = Reading(name="noise", means="sigma", eps=1.0, worst_case=False, attacks=(AttackReading(method="gn"),))
COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
SYSTEMS = ("none", "ismn", "magnet")


def some_claims(**changes: Any) -> Claims:
    rows = [{"system": name, "figures": {0.2: 0.5, 0.3: 0.25}} for name in SYSTEMS]
    fields = {"name": "made", "summary": "made", "cite": "Nobody", "states": "so", "dataset": "cifar10"}
    metrics = ["accuracy", "restoration"]
    return Claims.model_validate(fields | {"claims": rows, "readings": [LINF, NOISE], "metrics": metrics} | changes)


def measured(right: int, n: int, refused: int = 0, failed: int = 0) -> CellResult:
    """Return an attacked cell: the first ``right`` images are right, the last ``refused`` refused."""
    predicted = [0 if i < right else 1 for i in range(n)]
    rejected = [i >= n - refused for i in range(n)]
    lost = [i < failed for i in range(n)]
    return CellResult(
        cell=a_cell(n), ids=range(n), labels=[0] * n, clean=answers([0] * n), attacked=answers(predicted, rejected),
        failed=lost, linf=[0.1] * n, l2=[0.1] * n,
    )  # fmt: skip


def undefended(right: int, n: int) -> CellResult:
    predicted = [0 if i < right else 1 for i in range(n)]
    return CellResult(cell=a_cell(n, attack=False), ids=range(n), labels=[0] * n, clean=answers(predicted))


def trial(figure: float, **changes: Any) -> Trial:
    fields = {"reading": LINF, "attack": LINF.attacks[0], "metric": "accuracy", "accounting": Accounting.STRICT}
    return Trial(Claim("ismn", "Ours", None, 0.2, figure), **(fields | changes))


def wilson_of(hits: int, n: int) -> Estimate:
    rate = Rate(hits, n)
    return Estimate(rate.value, *rate.interval())


@given(COUNTS, st.none() | st.integers(1, 9999))
def test_the_measured_figure_itself_is_always_reproduced(counts: tuple[int, int], images: int | None) -> None:
    assert reproduces(counts[0] / counts[1], wilson_of(*counts), images)


@given(st.integers(0, 100), st.floats(0, 1), st.floats(0, 1), st.none() | st.integers(1, 5000))
def test_what_is_nearer_than_a_reproduced_figure_is_reproduced(
    hits: int, figure: float, part: float, images: int | None
) -> None:
    here = wilson_of(hits, 100)
    nearer = here.value + part * (figure - here.value)
    assert reproduces(nearer, here, images) or not reproduces(figure, here, images)


@given(SHARES, st.integers(0, 50), st.integers(1, 20))
def test_more_published_images_never_make_a_reproduction(figure: float, hits: int, times: int) -> None:
    here = wilson_of(hits, 50)
    if reproduces(figure, here, 100 * times):
        assert reproduces(figure, here, 100)


@given(st.integers(0, 200), st.integers(0, 300))
def test_two_counts_are_compared_by_newcombes_interval(hits: int, claimed: int) -> None:
    low, high = confint_proportions_2indep(hits, 200, claimed, 300, method="newcomb", compare="diff")
    assume(min(abs(low), abs(high)) > 1e-6)
    assert reproduces(claimed / 300, wilson_of(hits, 200), 300) == (low <= 0 <= high)


@given(SHARES, st.integers(1, 10**6))
def test_of_an_unknown_number_of_images_two_points_are_no_difference(figure: float, n: int) -> None:
    here = wilson_of(round(figure * n), n)
    near = abs(here.value - figure) <= TOLERANCE
    assert reproduces(figure, here, None) == (near or here.low <= figure <= here.high)


@given(SHARES, SHARES, st.integers(0, 40), st.integers(1, 5))
def test_a_verdict_is_what_interval_and_ceiling_say(figure: float, top: float, right: int, decimals: int) -> None:
    claims = some_claims(decimals=decimals)
    found = compare(claims, trial(figure), Evidence(measured(right, 40), undefended(40, 40), top))
    assert found.measured == wilson_of(right, 40) and found.ceiling == top
    assert found.difference == pytest.approx(right / 40 - figure)
    slack = 0.5 * 10**-decimals
    assume(abs(figure - slack - top) > 1e-8)
    if figure - slack > top:
        assert found.verdict is Verdict.IMPOSSIBLE
    else:
        assert found.verdict is (Verdict.REPRODUCED if found.agrees else Verdict.NOT_REPRODUCED)
    assert found.agrees == reproduces(figure, wilson_of(right, 40), None, slack)


@given(SHARES, SHARES, st.integers(0, 40), st.integers(1, 40))
def test_a_restoration_is_a_ratio_and_so_is_its_ceiling(figure: float, top: float, right: int, clean: int) -> None:
    evidence = Evidence(measured(right, 40), undefended(clean, 40), top)
    found = compare(some_claims(), trial(figure, metric="restoration"), evidence)
    assert found.measured is not None and found.measured.value == pytest.approx(right / clean)
    assert found.ceiling == pytest.approx(top * 40 / clean)
    plain = compare(some_claims(), trial(min(1.0, figure * clean / 40)), evidence)
    if abs(figure * clean / 40 - top) > 0.01:
        assert (found.verdict is Verdict.IMPOSSIBLE) == (plain.verdict is Verdict.IMPOSSIBLE)


@given(SHARES, st.integers(0, 20), st.integers(0, 20))
def test_no_ceiling_binds_noise_or_refusals_that_count_as_success(figure: float, right: int, refused: int) -> None:
    evidence = Evidence(measured(right, 40, refused), undefended(40, 40), 0.0)
    for free in (trial(figure, reading=NOISE), trial(figure, accounting=Accounting.REJECTED)):
        found = compare(some_claims(), free, evidence)
        assert found.ceiling is None and found.verdict is not Verdict.IMPOSSIBLE


@given(st.integers(0, 40), st.integers(0, 40))
def test_refusals_are_wrong_or_right_by_the_accounting(right: int, refused: int) -> None:
    cell, beside = measured(right, 40, refused), undefended(40, 40)
    strict, success = min(right, 40 - refused), max(right, 0) + max(0, min(refused, 40 - right))
    for metric in ("accuracy", "restoration"):
        assert estimate(cell, beside, metric, Accounting.STRICT).value == pytest.approx(strict / 40)  # type: ignore[arg-type]
        assert estimate(cell, beside, metric, Accounting.REJECTED).value == pytest.approx(success / 40)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "changes", "why"),
    [
        (Evidence(why="there are no weights"), {}, "there are no weights"),
        (Evidence(measured(3, 10, failed=1), undefended(9, 10)), {}, "the attack failed on 1 of 10 images"),
        (Evidence(measured(3, 10)), {"metric": "restoration"}, "undefended classifier at hand is another"),
        (Evidence(measured(3, 10), undefended(0, 10)), {"metric": "restoration"}, "right on no image"),
    ],
)
def test_what_cannot_be_told_is_not_tested(evidence: Evidence, changes: dict[str, Any], why: str) -> None:
    found = compare(some_claims(), trial(0.3, **changes), replace(evidence, ceiling=0.1))
    assert found.verdict is Verdict.NOT_TESTED and why in found.why
    assert found.measured is found.agrees is found.difference is None


def test_every_claim_is_tried_under_every_reading_and_both_accountings_where_it_refuses() -> None:
    made = list(trials_of(some_claims(), (LINF, NOISE)))
    tried = [(t.metric, t.reading.name, t.claim.system, t.claim.level, t.accounting) for t in made]
    assert len(set(tried)) == len(tried) == 2 * 2 * 2 * (1 + 1 + 2)
    assert {t.claim.system for t in made if t.accounting is Accounting.REJECTED} == {"magnet"}


def test_a_named_attack_is_tried_as_that_attack_only() -> None:
    both = LINF.model_copy(update={"attacks": (AttackReading(method="pgd"), AttackReading(method="fgsm"))})
    rows = [{"system": "none", "attack": "fgsm", "figures": {0.2: 0.5}}]
    assert [t.attack.label for t in trials_of(some_claims(claims=rows, metrics="accuracy"), (both,))] == ["fgsm"]


@given(st.data())
def test_the_nearest_reading_is_the_one_with_the_least_mean_difference(data: st.DataObject) -> None:
    """Measurements are planted: each reading has its own offset from the claims, and one has the smallest."""
    claims = some_claims()
    offsets = {(m, r): data.draw(st.floats(-0.2, 0.2)) for m in claims.metrics for r in ("linf", "noise")}
    order = sorted(abs(offset) for offset in offsets.values())
    assume(order[1] - order[0] > 1e-6)
    made = trials_of(claims, (LINF, NOISE))
    planted = [Comparison(t, Verdict.NOT_REPRODUCED, measured=_off(t, offsets)) for t in made]
    ranked = fits(planted)
    best = nearest(ranked)
    assert best is ranked[0][None] and best is not None
    (truth,) = [place for place, offset in offsets.items() if abs(offset) == order[0]]
    assert (best.metric, best.reading.name) == truth
    assert best.distance == pytest.approx(order[0]) and best.claims == best.tested == 6
    distances = [fit[None].distance for fit in ranked]
    assert distances == sorted(distances) and len(ranked) == 2 * 2 * 2


def _off(of: Trial, offsets: dict[tuple[str, str], float]) -> Estimate:
    value = of.claim.figure + offsets[of.metric, of.reading.name]
    return Estimate(value, value, value)


def test_a_reading_that_left_claims_untested_is_not_the_nearest() -> None:
    made = list(trials_of(some_claims(metrics="accuracy"), (LINF, NOISE)))
    found = []
    for one in made:
        off = Estimate(one.claim.figure + 0.1 * (one.reading is LINF), 0.0, 1.0)
        if one.reading is NOISE and one.claim.system == "ismn":
            found.append(Comparison(one, Verdict.NOT_TESTED, why="no weights"))
        else:
            found.append(Comparison(one, Verdict.REPRODUCED, measured=off, agrees=True))
    best = nearest(fits(found))
    assert best is not None and best.reading is LINF and best.distance == pytest.approx(0.1)
    of_none = nearest(fits(found), "none")
    assert of_none is not None and of_none.reading is NOISE and of_none.distance == 0


def test_without_a_test_there_is_no_nearest() -> None:
    found = [Comparison(t, Verdict.NOT_TESTED, why="no data") for t in trials_of(some_claims(), (LINF,))]
    ranked = fits(found)
    assert nearest(ranked) is None and ranked[0][None].tested == ranked[0][None].reproduced == 0
