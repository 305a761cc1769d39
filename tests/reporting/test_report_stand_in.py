"""A paper's figures beside other images than its own: shown where they are asked for, and called what they are."""

from __future__ import annotations

import pytest
from report_cells import answers, cell, result, samples

from ismn_cli.core.records import CellResult
from ismn_cli.reporting.comparison_table import comparison_report


def _results(dataset: str) -> list[CellResult]:
    images = samples(dataset, 100, 100)
    return [
        result(cell(system, method, eps, samples=images), answers(100, 80), answers(100, 40))
        for system in ("none", "lad", "ismn")
        for method in ("fgsm", "pgd")
        for eps in (8 / 255, 0.3)
    ]


def _papers(dataset: str, stand_in_for: str | None) -> dict[tuple[str, str], float]:
    rows = comparison_report(_results(dataset), stand_in_for=stand_in_for).rows
    return {(r["defence"], r["attack"]): r["paper"] for r in rows if r["paper"] is not None}


def test_table_4_stands_beside_celeba_each_figure_beside_its_own_attack() -> None:
    papers = _papers("celeba/Smiling@128", None)
    assert papers == {
        ("none", "fgsm"): 62.4, ("none", "pgd"): 59.7, ("lad", "fgsm"): 91.2, ("lad", "pgd"): 92.3,
        ("ismn", "fgsm"): 92.7, ("ismn", "pgd"): 93.6,
    }  # fmt: skip


def test_other_images_get_the_figures_only_where_they_stand_in() -> None:
    assert _papers("folder/faces@128", None) == {}
    assert _papers("folder/faces@128", "celeba") == _papers("celeba/Smiling@128", None)


@pytest.mark.parametrize(("dataset", "stand_in_for"), [("celeba/Smiling@128", "celeba"), ("folder/faces@128", None)])
def test_images_of_ones_own_are_not_called_a_stand_in(dataset: str, stand_in_for: str | None) -> None:
    notes = comparison_report(_results(dataset), stand_in_for=stand_in_for).notes
    assert not any("Stand-in" in note for note in notes)


def test_a_stand_in_is_the_first_thing_that_is_said() -> None:
    first, *rest = comparison_report(_results("folder/faces@128"), stand_in_for="celeba").notes
    assert first.startswith("Stand-in: ") and "folder/faces@128" in first and "not of celeba" in first
    assert any(note.startswith("paper: Haque and Kang 2021") and "sigma = 0.4" in note for note in rest)
