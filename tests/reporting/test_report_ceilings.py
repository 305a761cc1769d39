"""Ceilings in reports: a line where they are known, and a flag on whatever lies above them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW, answers, ceilings, cell, levels, matrix, result, results, samples

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge, Norm
from ismn_cli.reporting.ceiling_table import ceiling_report
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.render import render_text
from ismn_cli.reporting.table import Report

ANY = ("any classifier", "(at most)")
FLAG = "Above the ceiling, {}: "


def top(possible: float, eps: float = 0.3, n: int = 10, norm: Norm = Norm.LINF) -> Ceiling:
    return Ceiling(samples=samples(n=n), norm=norm, eps=eps, conflicting=n, possible=possible)


def one(right: int, rejected: int = 0, n: int = 10, **where: object) -> CellResult:
    spot = cell("magnet", "fgsm", 0.3, samples=samples(n=n), **where)
    return result(spot, answers(n, n), answers(n, right, rejected))


def notes(found: list[CellResult], *tops: Ceiling) -> str:
    return "\n".join(comparison_report(found, ceilings=tops).notes)


def lines(report: Report) -> list[dict[tuple[str, ...], str]]:
    """Return each sheet's line of the ceiling by column heading; sheets without one are left out."""
    found = []
    for sheet in report.sheets():
        if ANY in sheet.labels:
            assert sheet.labels.index(ANY) == len(sheet.labels) - 1
            found.append({c.head: c.cells[-1][0] for group in (sheet.lead, *sheet.groups) for c in group})
    return found


def test_every_column_has_the_ceiling_of_its_size() -> None:
    figures = {"8/255": "100.0", "0.2": "99.4", "0.3": "78.0", "0.4": "50.0"}
    (line,) = lines(comparison_report(matrix(), ceilings=ceilings()))
    for (attack, *size), figure in line.items():
        assert figure == ("–" if attack in ("clean", "paper") else figures[size[0]])
    assert len(line) == 1 + 4 * 4 + 3
    every = lines(comparison_report(levels(), ceilings=ceilings(200)))
    assert len(every) == 4 == len(comparison_report(levels()).sheets())
    assert lines(comparison_report(levels())) == []


@pytest.mark.parametrize("other", [top(5, eps=0.2), top(5, norm=Norm.L2), top(5, n=9)])
def test_the_ceiling_of_another_size_norm_or_set_is_not_taken(other: Ceiling) -> None:
    report = comparison_report([one(8)], ceilings=[other])
    assert lines(report) == [] and report.rows[0]["ceiling"] is None


@pytest.mark.parametrize(
    ("right", "possible", "flagged"), [(7, 7, False), (7, 6.5, True), (8, 7.5, True), (7, 7.5, False)]
)
def test_counts_decide_what_is_above(right: int, possible: float, flagged: bool) -> None:
    assert (FLAG.format("gray-box") in notes([one(right)], top(possible))) == flagged


def test_refusals_are_no_answers() -> None:
    # 5 of 10 are right, 4 refused: 9 by the other accounting, and 5 of the 6 answered
    assert FLAG.format("gray-box") not in notes([one(5, rejected=4)], top(5))
    assert FLAG.format("gray-box") in notes([one(6, rejected=4)], top(5))


@pytest.mark.parametrize(
    ("knowledge", "named", "why"),
    [
        (Knowledge.GRAY, "gray-box", "does not know the defence may well miss it"),
        (Knowledge.BLACK, "black-box", "without gradients may well miss it"),
        (Knowledge.WHITE, "white-box", "The attack is too weak"),
        (Knowledge.ADAPTIVE, "adaptive", "The attack is too weak"),
    ],
)
def test_each_level_is_told_why(knowledge: Knowledge, named: str, why: str) -> None:
    text = notes([one(9, knowledge=knowledge)], top(5))
    assert f"{FLAG.format(named)}90.0 % of magnet under fgsm 0.3 (ceiling 50.0 %)" in text and why in text
    assert "impossible for a classifier that always answers" in text


def test_the_paper_s_figures_above_it_are_named() -> None:
    text = notes(matrix(), *ceilings())
    (told,) = [line for line in text.split("\n") if line.startswith(FLAG.format("in the paper"))]
    assert "89.4 % of ismn under fgsm 0.3 (ceiling 78.0 %)" in told and "and 2 more" in told
    below = [one.model_copy(update={"eps": one.eps, "possible": 1000}) for one in ceilings()]
    assert "in the paper" not in notes(matrix(), *below)


def test_known_ceilings_replace_the_general_remark() -> None:
    assert "far above the usual" in notes([one(5)])
    text = notes([one(5)], top(5))
    assert "far above the usual" not in text
    assert "always answers, whatever it is, can hold at most 50.0 % at 0.3 against every" in text
    assert "Ceiling:" not in notes([one(5)], top(10))


@FEW
@given(st.lists(results(), max_size=4), st.data())
def test_any_results_can_have_ceilings(found: list[CellResult], data: st.DataObject) -> None:
    spots = [(r.cell.samples, r.cell.attack.threat) for r in found if r.cell.attack]
    tops = [
        Ceiling(samples=s, norm=t.norm, eps=t.eps, conflicting=0, possible=data.draw(st.integers(0, 2 * s.count)) / 2)
        for s, t in spots
    ]
    report = comparison_report(found, ceilings=tops)
    known = {(c.samples.ids, c.norm.value, c.eps): c.possible for c in tops}
    above = False
    for row in report.rows:
        possible = None if row["attack"] is None else known.get((row["samples"], row["norm"], row["eps"]))
        if row["attacks"] is None:
            assert row["ceiling_images"] == possible
            above = above or (possible is not None and row["accuracy_hits"] > possible)
    assert any(note.startswith("Above the ceiling") for note in report.notes) == above
    for form in ("markdown", "csv", "json"):
        render_text(report, form)


def test_the_table_of_ceilings_says_what_they_are_of() -> None:
    text = render_text(ceiling_report([top(10, 8 / 255), top(6.5, 0.3)]), "markdown")
    assert "cifar10 test, first 10 of 10,000 images, linf" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert cells[1:] == [["8/255", "10", "10", "10", "100.0"], ["0.3", "10", "10", "6.5", "65.0"]]
