"""The verdict table: what it shows of each comparison, in what words, and what its notes must say."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW, answers, cell, result, samples
from rich.console import Console

from ismn_cli.core.claim_verdicts import Comparison, Evidence, Verdict, compare, trials_of
from ismn_cli.core.claims import Claims
from ismn_cli.core.records import CellResult
from ismn_cli.reporting.claims_table import claims_report
from ismn_cli.reporting.render import render, render_text
from ismn_cli.reporting.table import Report

N = 200
READINGS = [
    {"name": "linf", "means": "eps", "evidence_for": "it is usual", "attacks": ["fgsm", "pgd"]},
    {"name": "noise", "means": "sigma", "eps": 1, "worst_case": False, "attacks": ["gn"]},
]


def some_claims(**changes: Any) -> Claims:
    rows = [
        {"system": "none", "printed": "[red]|none|", "figures": {0.2: 0.5, 0.3: 0.25}},
        {"system": "magnet", "figures": {0.2: 0.9, 0.3: 0.8}},
    ]
    fields = {
        "name": "made", "summary": "A made table", "cite": "Nobody 2021", "states": "a claim", "dataset": "cifar10",
        "metrics": ["accuracy", "restoration"], "claims": rows, "readings": READINGS,
        "set_aside": [{"name": "percent", "why": "too little"}],
    }  # fmt: skip
    return Claims.model_validate(fields | changes)


def measured(system: str, method: str, right: int, refused: int, failed: int = 0, total: int = 10_000) -> CellResult:
    where = cell(system, method, 0.2, samples=samples(n=N, total=total))
    lost = tuple(i < failed for i in range(N))
    return result(where, answers(N, 160), answers(N, right, refused), failed=lost)


def report(right: int = 100, failed: int = 0, ceiling: float = 0.7, total: int = 10_000, **changes: Any) -> Report:
    claims = some_claims(**changes)
    beside = result(cell("none", None, samples=samples(n=N, total=total)), answers(N, 160))

    def tested(trial: Any) -> Comparison:
        refused = 40 if trial.claim.system == "magnet" else 0
        found = measured(trial.claim.system, trial.attack.method, right, refused, failed, total)
        return compare(claims, trial, Evidence(found, beside, ceiling, unreliable=trial.attack.method != "fgsm"))

    return claims_report(claims, [tested(trial) for trial in trials_of(claims, claims.readings)])


def drawn(made: Report, width: int) -> list[str]:
    console = Console(width=width, record=True, file=StringIO())
    console.print(render(made, "rich"))
    return console.export_text().splitlines()


def words(made: Report) -> str:
    return " ".join(render_text(made, "markdown").replace("\\", "").split())


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_broken(width: int) -> None:
    lines = drawn(report(), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "50.0 (+0.0)" in text and "[43.1, 56.9]" in text and "not reproduced" in text


def test_a_line_a_figure_and_a_column_a_reading() -> None:
    first, second, last = report().sheets()
    assert [label[0] for label in first.labels] == ["none 0.2", "none 0.3", *["magnet 0.2"] * 2, *["magnet 0.3"] * 2]
    assert [column.head for group in first.groups for column in group] == [
        ("linf", "ceiling"), ("linf", "fgsm"), ("linf", "pgd"), ("noise", "gn"),
    ]  # fmt: skip
    assert first.groups[0][0].cells[2:4] == (("70.0",), ("–",)), "refusals that count as success have no ceiling"
    assert first.groups[0][1].cells[0] == ("50.0 (+0.0)", "[43.1, 56.9]", "reproduced")
    assert first.groups[0][1].cells[2] == ("50.0 (-40.0)", "[43.1, 56.9]", "impossible")
    assert first.groups[0][1].cells[3] == ("70.0 (-20.0)", "[63.3, 75.9]", "not reproduced")
    assert second.title.startswith("restoration") and second.groups[0][0].cells[0] == ("87.5",)
    assert len(last.labels) == 2 * 3 * 2


def test_the_notes_say_which_reading_is_nearest_and_by_what_rule() -> None:
    text = words(report())
    assert "No reading gives every figure. The nearest over all: " in text
    assert "The nearest to the figures of none: " in text and "Claimed: a claim Nobody 2021." in text
    assert "within 2 points, because it is not said how many images" in text
    assert "shares of 2,000 images" in words(report(images=2000))
    assert "linf: level is eps. For: it is usual" in text and "Not tried, percent: too little." in text
    assert "first 200 of 10,000 images" in text
    assert "first 200" not in words(report(total=N))


def test_a_reading_that_gives_every_figure_is_named() -> None:
    rows = [{"system": "none", "figures": {0.2: 0.5}}]
    text = words(report(claims=rows, metrics="accuracy"))
    assert "Every figure is given by linf fgsm as accuracy and linf pgd as accuracy and noise gn as accuracy." in text


def test_what_failed_or_is_unreliable_is_told() -> None:
    text = words(report())
    assert "Unreliable, by the audit of these runs: linf pgd on none at 0.2, linf pgd on none at 0.3" in text
    assert "fgsm on none" not in text and "gn on none" not in text, "noise need not do what an attack must"
    failed = report(failed=3)
    assert {row["verdict"] for row in failed.rows if row["row"] == "claim"} == {Verdict.NOT_TESTED.value}
    assert "the attack failed on 3 of 200 images" in words(failed)
    assert "no reading can be called the nearest" in words(failed)


@FEW
@given(st.integers(0, N), st.floats(0, 1))
def test_summaries_are_of_the_claims_above_them(right: int, ceiling: float) -> None:
    rows = report(right, ceiling=ceiling).rows
    claimed = [row for row in rows if row["row"] == "claim"]
    for summary in [row for row in rows if row["row"] == "summary"]:
        same = [
            row
            for row in claimed
            if all(row[name] == summary[name] for name in ("reading", "read_attack", "metric"))
            and summary["system"] in ("all", row["system"])
            and (row["accounting"] == summary["accounting"] or row["system"] == "none")
        ]
        assert len(same) == summary["claims"] == summary["tested"]
        assert sum(row["reproduced"] for row in same) == summary["reproduced"]
        assert sum(row["impossible"] for row in same) == summary["impossible"]
        mean = sum(abs(row["measured"] - row["claimed"]) for row in same) / len(same)
        assert mean == pytest.approx(summary["difference"], abs=0.11)
    ranks = {row["rank"]: row["difference"] for row in rows if row["row"] == "summary" and row["system"] == "all"}
    assert [ranks[rank] for rank in sorted(ranks)] == sorted(ranks.values())


def test_names_are_text_and_never_markup() -> None:
    made = report(summary="[/] a|b <b>", states="`x` *y* $z$")
    assert drawn(made, 100)[0].rstrip() == "[/] a|b <b>"
    text = render_text(made, "markdown")
    assert text.startswith(r"### \[/\] a\|b \<b\>") and r"Claimed: \`x\` \*y\* \$z\$" in text
