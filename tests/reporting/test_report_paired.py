"""Two systems image by image: which cells correspond, what the table says, and what is refused."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from report_cells import answers, cell, digest, levels, matrix, result, samples

from ismn_cli.core.errors import UsageError
from ismn_cli.core.paired import holm, paired
from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Knowledge, Subject
from ismn_cli.reporting.paired_table import COLUMNS, paired_report
from ismn_cli.reporting.render import FORMATS, render, render_text
from ismn_cli.reporting.table import Row


def one(system: str, right: int, method: str | None = "pgd", n: int = 10, **changes: Any) -> CellResult:
    where = cell(system, method, 0.1, **({"samples": samples(n=n)} | changes))
    return result(where, answers(n, right), answers(n, right) if method else None)


def compared(found: list[CellResult], first: str = "none", second: str = "ismn") -> list[Row]:
    return paired_report(found, first, second).rows


def refused(found: list[CellResult], first: str = "none", second: str = "ismn") -> UsageError:
    with pytest.raises(UsageError) as caught:
        paired_report(found, first, second)
    return caught.value


def test_every_common_cell_is_compared_on_its_images() -> None:
    found = levels()
    cells = {(r.cell.defence.name, r.cell.knowledge, r.cell.attack.label() if r.cell.attack else ""): r for r in found}
    rows = compared(found, "none", "magnet")
    assert [row["attack"] for row in rows[:2]] == ["worst case"] * 2 and rows[0]["knowledge"] == "all"
    attacked = [row for row in rows if row["attack"] != "worst case"]
    assert len(attacked) == 1 + 4 + 2  # none met no adaptive attacker, and no pgd in the white box
    for row in attacked:
        where = (row["knowledge"], f"{row['attack']} {row['level']}" if row["attack"] else "")
        both = [answered_right(cells[(name, *where)]) for name in ("none", "magnet")]
        counts = paired(*both)
        assert (row["only_first"], row["only_second"]) == (counts.only_first, counts.only_second)
        assert row["first_right_hits"] == sum(both[0]) and row["second_right_hits"] == sum(both[1])
        assert row["difference"] == pytest.approx(100 * counts.difference, abs=0.05)
        assert row["p"] == pytest.approx(counts.p_value(), rel=1e-3)
    corrected = holm([row["p"] for row in rows])
    assert [row["p_holm"] for row in rows] == pytest.approx(corrected, rel=1e-3)


def test_worst_cases_are_compared_where_several_attacks_make_them() -> None:
    found = [one(name, right, method) for name, right in (("none", 3), ("ismn", 7)) for method in ("fgsm", "pgd")]
    rows = compared(found)
    assert [(row["attack"], row["knowledge"]) for row in rows] == [
        ("worst case", "gray"),
        ("fgsm", "gray"),
        ("pgd", "gray"),
    ]
    assert (rows[0]["difference"], rows[0]["only_second"], rows[0]["p"]) == (-40.0, 4, 0.125)
    assert [row["p_holm"] for row in rows] == [0.375] * 3


def test_turning_the_systems_turns_the_figures() -> None:
    ahead, back = compared(levels(), "none", "magnet"), compared(levels(), "magnet", "none")
    for row, turned in zip(ahead, back, strict=True):
        assert row["difference"] == -turned["difference"] and row["p_holm"] == turned["p_holm"]
        assert (row["difference_low"], row["only_first"]) == (-turned["difference_high"], turned["only_second"])


def test_draws_and_eot_follow_the_system_and_do_not_part_cells() -> None:
    drawn = one("mine", 4, draws=5)
    spec = drawn.cell.attack.model_copy(update={"eot": 10})  # type: ignore[union-attr]
    drawn = drawn.model_copy(update={"cell": drawn.cell.model_copy(update={"attack": spec})})
    assert len(compared([drawn, one("none", 6)], "none", "mine")) == 1


def test_other_images_are_refused_with_the_reason() -> None:
    error = refused([one("none", 5), one("ismn", 5, n=9)])
    assert "numbers of images differ (10 and 9)" in error.message
    shifted = samples(n=10).model_copy(update={"ids": digest("others")})
    error = refused([one("none", 5), one("ismn", 5, samples=shifted)])
    assert "sample ids differ" in error.message


def test_of_several_sets_of_images_only_the_common_ones_are_compared() -> None:
    rows = compared([one("none", 5), one("none", 5, n=9), one("ismn", 4, n=9)])
    assert [row["n"] for row in rows] == [9]


def test_nothing_in_common_is_refused() -> None:
    error = refused([one("none", 5), one("ismn", 5, knowledge=Knowledge.WHITE)])
    assert "no cell in common" in error.message and "ismn attack --defence none,ismn" in error.hint
    assert "no cell in common" in refused([one("none", 5), one("ismn", 5, params={"steps": 20})]).message


def test_unknown_names_get_the_nearest() -> None:
    error = refused(matrix(), "none", "magnt")
    assert "'magnt'" in error.message and "Did you mean 'magnet'?" in error.hint


def test_one_name_for_several_weights_is_asked_about() -> None:
    other = one("ismn", 4, defence=Subject(name="ismn", weights=digest("new")))
    found = [one("none", 5), one("ismn", 6), other]
    error = refused(found)
    label = f"ismn {digest('new')[:8]}"
    assert "several systems called 'ismn'" in error.message and label in error.hint
    assert [row["second_right_hits"] for row in compared(found, "none", label)] == [4]


def test_around_other_classifiers_only_where_there_is_no_choice() -> None:
    base, other = Subject(name="none", weights=digest("a")), Subject(name="none", weights=digest("b"))
    rows = compared([one("none", 5, classifier=base), one("ismn", 6, classifier=other)])
    assert len(rows) == 1 and rows[0]["classifier_weights"] != rows[0]["second_classifier_weights"]
    both = [one("ismn", 6, classifier=c) for c in (base, other)]
    assert [row["second_classifier_weights"] for row in compared([one("none", 5, classifier=base), *both])] == [
        base.weights
    ]
    third = Subject(name="none", weights=digest("c"))
    assert "base classifiers" in refused([one("none", 5, classifier=third), *both]).message


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_every_row(form: str) -> None:
    report = paired_report(levels(), "none", "magnet")
    assert render(report, form)
    if form != "rich":
        text = render_text(report, form)
        assert all(f"{row['difference']}" in text for row in report.rows)
    read = list(csv.DictReader(io.StringIO(render_text(report, "csv"))))
    assert list(read[0]) == [column.name for column in COLUMNS] and len(read) == len(report.rows)


def test_columns_are_named_once_and_say_what_they_mean() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names) and all(column.meaning for column in COLUMNS)
