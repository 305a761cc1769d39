"""Worst cases in the table, the headline, and what is noted on levels, detectors and draws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cells import answers, cell, levels, matrix, result, samples

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge, Norm, Subject
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.layout import Sheet
from ismn_cli.reporting.render import render_text
from ismn_cli.reporting.table import Report, Row
from ismn_cli.reporting.worst_rows import ALL, WORST, worst_rows

GRAY, WHITE, ADAPTIVE, BLACK = Knowledge.GRAY, Knowledge.WHITE, Knowledge.ADAPTIVE, Knowledge.BLACK
LEVELS = levels()


def one(right: int, method: str = "pgd", eps: float = 0.1, knowledge: Knowledge = GRAY, **changes: Any) -> CellResult:
    """Return a cell on ten images of which the first ``right`` hold."""
    where = cell(changes.pop("system", "ismn"), method, eps, knowledge=knowledge, samples=samples(n=10), **changes)
    return result(where, answers(10, 9), answers(10, right))


def worst_of(*found: CellResult) -> dict[tuple[str, float], Row]:
    return {(row["knowledge"], row["eps"]): row for row in worst_rows(found)}


def said(*found: CellResult) -> str:
    return "\n".join(comparison_report(found).notes)


def sheet(report: Report, ending: str) -> Sheet:
    (chosen,) = [sheet for sheet in report.sheets() if sheet.title.endswith(ending)]
    return chosen


def test_a_single_attack_has_no_worst_case() -> None:
    assert worst_rows([one(5), one(4, eps=0.2)]) == []


def test_a_level_has_a_worst_case_where_several_attacks_ran_at_a_size() -> None:
    found = worst_of(one(5), one(7, "fgsm"), one(6, eps=0.2))
    assert set(found) == {("gray", 0.1)}
    row = found["gray", 0.1]
    assert (row["attack"], row["attacks"]) == (WORST, 2)
    assert (row["robust_accuracy_hits"], row["robust_accuracy_total"]) == (5, 10)
    assert (row["survived"], row["broken"], row["wrong_clean"], row["success_total"]) == (5, 4, 1, 9)
    assert json.loads(row["broken_by"]) == {"gray pgd": 4}


def test_levels_are_compared_even_with_one_attack_each() -> None:
    found = worst_of(one(5), one(3, knowledge=WHITE), one(4, eps=0.2))
    assert set(found) == {("gray", 0.1), ("white", 0.1), (ALL, 0.1), ("gray", 0.2)}
    assert [found[where]["survived"] for where in found] == [5, 3, 3, 4]
    assert json.loads(found[ALL, 0.1]["broken_by"]) == {"gray pgd": 4, "white pgd": 2}


def test_a_break_at_a_smaller_size_counts_and_is_named() -> None:
    row = worst_of(one(3), one(6, eps=0.2), one(7, "fgsm", eps=0.2))["gray", 0.2]
    assert row["survived"] == 3 and row["attacks"] == 2
    assert json.loads(row["broken_by"]) == {"gray pgd": 3, "gray pgd 0.1": 3}


def test_norms_images_and_weights_have_worst_cases_of_their_own() -> None:
    retrained = {"defence": Subject(name="ismn", weights="other")}
    rows = worst_rows([one(5), one(4, norm=Norm.L2), one(3, **retrained)])
    assert rows == []
    assert len(worst_rows([*(one(5, m) for m in ("fgsm", "pgd")), one(4, norm=Norm.L2)])) == 1


def test_a_cell_that_two_runs_share_is_one_attack() -> None:
    assert worst_rows([one(5), one(5)]) == []


@settings(max_examples=10, deadline=None)
@given(st.permutations(LEVELS))
def test_worst_figures_do_not_depend_on_the_order_of_the_cells(found: list[CellResult]) -> None:
    def figures(found: list[CellResult]) -> set[tuple[object, ...]]:
        names = ("defence", "knowledge", "eps", "attacks", "survived", "broken", "detected", "unknown", "failed")
        return {tuple(row[name] for name in names) for row in worst_rows(found)}

    assert figures(found) == figures(LEVELS)


def test_headline_comes_first_and_has_the_levels_side_by_side() -> None:
    report = comparison_report(LEVELS)
    first = report.sheets()[0]
    assert first.title.endswith("worst case over all knowledge levels")
    heads = [column.head for group in first.groups for column in group]
    assert heads[:4] == [(name, "8/255") for name in ("worst case", "gray-box", "white-box", "adaptive")]
    assert [label[0] for label in first.labels] == ["none", "magnet", "magnet", "diverse"]
    rows = {(r["defence"], r["knowledge"], r["level"]): r for r in report.rows if r["attack"] == WORST}
    shown = [column.cells[0][0] for column in first.groups[0]]
    figures = [rows["none", level, "8/255"]["robust_accuracy"] for level in (ALL, "gray", "white")]
    assert shown == [*(f"{figure:.1f}" for figure in figures), "–"]


def test_no_headline_with_one_level_and_one_for_each_norm_with_several() -> None:
    assert all("all knowledge levels" not in sheet.title for sheet in comparison_report(matrix()).sheets())
    both = [one(5, norm=norm, knowledge=level) for norm in Norm for level in (GRAY, WHITE)]
    titles = [sheet.title for sheet in comparison_report(both).sheets()]
    assert [title.split("images, ")[1] for title in titles[:2]] == [
        "worst case over all knowledge levels",
        "worst case over all knowledge levels, l2",
    ]


def test_section_shows_the_worst_case_only_where_several_attacks_ran() -> None:
    found = [one(5), one(7, "fgsm"), one(4, eps=0.2), one(3, knowledge=WHITE)]
    report = comparison_report(found)
    heads = [column.head for group in sheet(report, "gray-box").groups for column in group]
    assert heads == [("pgd", "0.1"), ("pgd", "0.2"), ("fgsm", "0.1"), ("worst case", "0.1")]
    assert [c.head for g in sheet(report, "white-box").groups for c in g] == [("pgd", "0.1")]


def test_worst_rows_follow_the_cells_and_leave_cell_figures_empty() -> None:
    rows = comparison_report(LEVELS).rows
    kinds = [row["attacks"] is not None for row in rows]
    assert kinds == sorted(kinds) and kinds.count(True) == 2 * (2 + 3 + 3) + 2 * 3
    for row in rows[kinds.index(True) :]:
        assert row["attack"] == WORST and row["cell"] is None and row["seed"] is None
        assert row["accuracy"] is None and row["attack_ms"] is None and row["clean_accuracy_total"] == row["n"]
        assert row["survived"] + row["broken"] + row["detected"] + row["wrong_clean"] + row["unknown"] == row["n"]


def test_order_of_levels_is_checked() -> None:
    fine = said(one(7), one(5, knowledge=WHITE), one(5, knowledge=ADAPTIVE), one(6, knowledge=BLACK))
    assert "Order:" not in fine
    text = said(one(5), one(7, knowledge=WHITE), one(6, knowledge=ADAPTIVE))
    assert "Order: ismn at 0.1: the white-box worst case is 70.0 %, above 50.0 % gray-box, by 2 images of 10" in text
    assert "the adaptive worst case is 60.0 %, above 50.0 % gray-box, by 1 image of 10" in text
    assert text.count("Order:") == 2 and "the lower figure is the honest one" in text
    masked = said(one(7), one(5, knowledge=WHITE), one(4, knowledge=BLACK))
    assert masked.count("Order:") == 1 and "above 40.0 % black-box" in masked


def test_order_is_checked_in_both_accountings_where_images_are_refused() -> None:
    def refusing(right: int, rejected: int, knowledge: Knowledge) -> CellResult:
        where = cell("magnet", "pgd", 0.1, knowledge=knowledge, samples=samples(n=10))
        return result(where, answers(10, 10), answers(10, right, rejected))

    text = said(refusing(4, 4, GRAY), refusing(5, 0, WHITE))
    assert "worst case (strict) is 50.0 %, above 40.0 %" in text and text.count("Order:") == 1
    text = said(refusing(4, 0, GRAY), refusing(4, 3, WHITE))
    assert "worst case (rejected = success) is 70.0 %, above 40.0 %" in text and text.count("Order:") == 1


@pytest.mark.parametrize("level", [BLACK, GRAY, WHITE, ADAPTIVE])
def test_every_level_is_explained_where_it_ran(level: Knowledge) -> None:
    names = {BLACK: "Black-box:", GRAY: "Gray-box:", WHITE: "White-box:", ADAPTIVE: "Adaptive:"}
    text = said(one(5, knowledge=level))
    assert [name in text for name in names.values()] == [other is level for other in names]


def test_who_broke_what_is_told_with_the_level_where_several_ran() -> None:
    text = said(one(5), one(3, knowledge=WHITE), one(2, eps=0.2, knowledge=WHITE))
    assert "Worst case of ismn, images first broken by: 0.1: gray pgd 4, white pgd 2." in text
    text = said(one(5), one(3, "fgsm"))
    assert "Worst case of ismn, gray-box, images first broken by: 0.1: pgd 4, fgsm 2." in text


def test_failures_under_a_worst_case_are_counted() -> None:
    lost = result(one(5).cell, answers(10, 9), answers(10, 5), failed=(True,) * 2 + (False,) * 8)
    text = said(lost, one(9, "fgsm"))
    assert "ismn at 0.1, gray-box (2 images, on 0 all failed)" in text
    also = result(one(9, "fgsm").cell, answers(10, 9), answers(10, 9), failed=(True,) + (False,) * 9)
    row = worst_of(lost, also)["gray", 0.1]
    assert (row["unknown"], row["failed"], row["robust_accuracy_hits"]) == (1, 2, 4)


def test_detectors_and_draws_are_noted_only_where_there_are_any() -> None:
    text = said(*LEVELS)
    assert "Detector of magnet, gray-box: 1.0 % [" in text and "Detector of none" not in text
    assert "SR@5" in text and "asked several times about each image (diverse 5 times)" in text
    plain = said(*matrix())
    assert "Detector of" not in plain and "Randomised" not in plain


def test_detector_of_a_routing_system_has_no_sr_at_5() -> None:
    found = one(5)
    scored = {"score": tuple(i / 10 for i in range(10))}
    routed = found.model_copy(update={"attacked": found.attacked.model_copy(update=scored)})  # type: ignore[union-attr]
    text = said(routed)
    assert "AUROC 0.950" in text and "SR@5 undefined: the stored answers were routed" in text


def test_lines_name_accountings_and_draws() -> None:
    labels = [" ".join(label) for label in sheet(comparison_report(LEVELS), "gray-box").labels]
    assert labels == [
        "none",
        "magnet (strict)",
        "magnet (rejected = success)",
        "magnet (answered only)",
        "diverse (first of 5 draws)",
        "diverse (mean of 5)",
        "diverse (worst of 5)",
        "diverse (majority of 5)",
    ]


def test_transfer_eot_and_draws_are_told_apart() -> None:
    source = (Subject(name="at", weights="ab" * 32),)
    found = [one(5, knowledge=BLACK), one(4, knowledge=BLACK, sources=source)]
    heads = [c.head[0] for g in sheet(comparison_report(found), "black-box").groups for c in g]
    assert heads == ["pgd", "pgd transferred", "worst case"]
    rows = comparison_report(found).rows
    assert [row["sources"] for row in rows[:2]] == [None, "at abababab"]
    # EOT follows the defence: told only where one defence has several.
    averaged = one(5, system="mine")
    spec = averaged.cell.attack.model_copy(update={"eot": 10})  # type: ignore[union-attr]
    eot = averaged.model_copy(update={"cell": averaged.cell.model_copy(update={"attack": spec})})
    assert [c.head[0] for g in comparison_report([one(5), eot]).sheets()[0].groups for c in g] == ["pgd"]
    heads = [c.head[0] for g in comparison_report([one(5), averaged, eot]).sheets()[0].groups for c in g]
    assert heads[:3] == ["pgd", "pgd, eot=1", "pgd, eot=10"]


def test_seeds_are_one_column_with_mean_and_range() -> None:
    found = [one(right, seed=seed) for seed, right in enumerate((5, 8, 6))] + [one(9, system="none", seed=0)]
    report = comparison_report(found)
    columns = [column for group in report.sheets()[0].groups for column in group]
    assert [column.head[0] for column in columns] == ["pgd, seed=0+1+2", "pgd, seed=0", "worst case"]
    assert columns[0].cells[0] == ("63.3", "mean of 3 seeds", "50.0 to 80.0")
    assert [row["seed"] for row in report.rows if row["attacks"] is None] == [0, 1, 2, 0]
    assert worst_of(*found[:3])["gray", 0.1]["survived"] == 5
    together = comparison_report([*found, one(8, system="none", seed=1), one(8, system="none", seed=2)])
    assert [column.head[0] for column in together.sheets()[0].groups[0]] == ["pgd"]


def test_report_without_clock_is_the_same_for_the_same_results() -> None:
    def timed(seconds: float) -> str:
        found = [r.model_copy(update={"craft_seconds": seconds, "judge_seconds": seconds / 3}) for r in LEVELS]
        return render_text(comparison_report(found).without_clock(), "csv")

    assert timed(1.0) == timed(7.7)
    plain = render_text(comparison_report(LEVELS), "csv").splitlines()[0].split(",")
    kept = timed(1.0).splitlines()[0].split(",")
    assert [name for name in plain if name not in kept] == ["attack_ms", "latency_ms"]
    assert [name for name in plain if name in kept] == kept
