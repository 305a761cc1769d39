"""The notes are honest: each appears exactly when it must. And the paper's figures are the paper's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW, LEVELS, answers, cell, matrix, result, results, samples

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge, Norm
from ismn_cli.reporting.notes import notes
from ismn_cli.reporting.published import ceiling, lookup, quoted
from ismn_cli.reporting.table import comparison

TABLE_3 = """
0.2 0.482 0.936 0.792 0.895
0.3 0.374 0.894 0.688 0.853
0.4 0.268 0.871 0.564 0.816
"""


def said(*found: CellResult) -> str:
    return "\n".join(notes(comparison(found)))


def one(where: object = None, **changes: object) -> CellResult:
    spot = where or cell("ismn", "pgd", 8 / 255, samples=samples(n=10, total=10))
    return result(spot, answers(10, 9), answers(10, 5), **changes)  # type: ignore[arg-type]


def test_limited_sample_is_said() -> None:
    assert "Limited" not in said(one())
    text = said(one(cell("ismn", "pgd", 8 / 255, samples=samples(n=10, total=10_000))))
    assert "Limited: first 10 of 10,000 images of cifar10 test" in text


def test_gray_box_caveat_is_for_gray_box() -> None:
    assert "does not know the defence" in said(one())
    white = cell("ismn", "pgd", 8 / 255, samples=samples(n=10, total=10), knowledge=Knowledge.WHITE)
    assert "Gray-box" not in said(one(white))


def test_accounting_is_named_where_images_are_refused() -> None:
    assert "rejected = success" not in said(one())
    where = cell("magnet", "pgd", 8 / 255, samples=samples(n=10, total=10))
    text = said(result(where, answers(10, 9), answers(10, 5, rejected=2)))
    assert "Refused images (magnet)" in text and "rejected = success (MagNet's accounting" in text


def test_unknown_is_counted_and_named() -> None:
    text = said(one(failed=(True,) * 2 + (False,) * 8))
    assert "Unknown: pgd 8/255 on ismn: the attack failed on 2 of 10 images" in text
    assert "Unknown" not in said(one())


def test_paper_note_says_that_the_attack_is_not_named() -> None:
    text = said(*matrix())
    assert "does not name the attack of Table 3" in text and "are not thresholds" in text
    assert text.count("does not name the attack") == 1
    assert "paper" not in said(one())


def test_ceiling_is_told_at_large_eps_only() -> None:
    assert "far above the usual" not in said(one())
    text = said(one(cell("ismn", "pgd", 0.3, samples=samples(n=10, total=10))))
    assert "67.1 % at 0.3 (10,000)" in text and "98.2" not in text


def test_weights_and_own_notes_are_told() -> None:
    text = said(one(notes=("retried once",)))
    assert "base classifier " in text and "Note on pgd 8/255 on ismn: retried once" in text


@FEW
@given(st.lists(results(), max_size=4))
def test_no_note_is_empty_or_said_twice(found: list[CellResult]) -> None:
    told = notes(comparison(found))
    assert all(told) and len(set(told)) == len(told) and all("\n" not in note for note in told)


@pytest.mark.parametrize("line", TABLE_3.split("\n")[1:-1])
def test_quoted_figures_are_those_of_table_3(line: str) -> None:
    eps, *figures = map(float, line.split())
    for defence, figure in zip(("none", "ismn", "magnet", "ddsa"), figures, strict=True):
        found = lookup("cifar10", defence, "fgsm", "linf", eps, "gray")
        assert found is not None and found.accuracy == figure


@FEW
@given(
    st.sampled_from(("cifar10", "cifar10-mini")),
    st.sampled_from(("none", "ismn", "magnet", "ddsa", "jpeg")),
    st.sampled_from(("fgsm", "rfgsm", "pgd")),
    st.sampled_from(("linf", "l2")),
    st.sampled_from((*LEVELS, 0.1, 0.25, 0.5)),
    st.sampled_from(("gray", "white", "black", "adaptive")),
)
def test_nothing_else_is_quoted(dataset: str, defence: str, attack: str, norm: str, eps: float, knowledge: str) -> None:
    place = (dataset, attack, norm, knowledge) == ("cifar10", "fgsm", "linf", "gray")
    expected = place and defence != "jpeg" and eps in (0.2, 0.3, 0.4)
    assert (lookup(dataset, defence, attack, norm, eps, knowledge) is not None) == expected


def test_targeted_clean_and_training_cells_are_not_quoted() -> None:
    assert quoted(cell("ismn", "fgsm", 0.2)) is not None
    assert quoted(cell("ismn", "fgsm", 0.2, targeted=True)) is None
    assert quoted(cell("ismn", None)) is None
    train = samples().model_copy(update={"split": "train"})
    assert quoted(cell("ismn", "fgsm", 0.2, samples=train)) is None


@FEW
@given(st.floats(0, 1), st.floats(0, 1))
def test_ceiling_falls_with_eps(a: float, b: float) -> None:
    small, large = (ceiling("cifar10", Norm.LINF, eps) for eps in sorted((a, b)))
    if small is not None:
        assert large is not None and large.accuracy <= small.accuracy
    assert (ceiling("cifar10", Norm.LINF, a) is None) == (a < 0.2 * (1 - 1e-5)) or abs(a - 0.2) < 1e-5
    assert ceiling("cifar10", Norm.L2, a) is None and ceiling("other", Norm.LINF, a) is None


def test_figures_that_the_audit_does_not_believe_are_named_in_every_format() -> None:
    from ismn_cli.reporting.comparison_table import comparison_report
    from ismn_cli.reporting.render import render_text

    good, bad = one(), one(cell("ddsa", "pgd", 8 / 255, samples=samples(n=10, total=10)))
    report = comparison_report([good, bad], unreliable={bad.cell.key(): ("AT07", "GM03")})
    assert [row["unreliable"] for row in report.rows] == [None, "AT07, GM03"]
    (told,) = [note for note in report.notes if note.startswith("Unreliable")]
    assert "AT07, GM03" in told and "ddsa" in told and "ismn," not in told.split("): ", 1)[1]
    for form in ("markdown", "csv", "json"):
        assert "AT07, GM03" in render_text(report, form)
    assert not any(note.startswith("Unreliable") for note in comparison_report([good, bad]).notes)
