"""Reports as people see them: look at tests/golden. ISMN_UPDATE_GOLDEN=1 writes them anew; read the diff."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from report_cells import ceilings, levels, matrix
from rich.console import Console

from ismn_cli.core.records import CellResult
from ismn_cli.reporting.attack_table import attack_report
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.defend_table import defend_report
from ismn_cli.reporting.paired_table import paired_report
from ismn_cli.reporting.render import render, render_text
from ismn_cli.reporting.table import Report

GOLDEN = Path(__file__).parents[1] / "golden"


def chosen(keep: Callable[[str, str | None, float], bool]) -> list[CellResult]:
    """Return the results of the matrix whose defence, method and eps are kept."""
    spots = [(one, one.cell.attack) for one in matrix()]
    return [
        one
        for one, attack in spots
        if keep(one.cell.defence.name, attack.method if attack else None, attack.threat.eps if attack else 0.0)
    ]


REPORTS: dict[str, Callable[[], Report]] = {
    "comparison": lambda: comparison_report(matrix(), ceilings=ceilings()),
    "quickstart": lambda: comparison_report(
        chosen(lambda _, m, eps: m != "rfgsm" and eps < 0.1), ceilings=ceilings()
    ),
    "attack": lambda: attack_report(
        chosen(lambda d, m, eps: (d, m, eps) == ("ismn", "pgd", 0.3)), ceilings=ceilings()
    ),
    "attack-levels": lambda: attack_report(chosen(lambda d, m, _: (d, m) == ("magnet", "fgsm"))),
    "defend": lambda: defend_report(
        chosen(lambda _, m, eps: m in (None, "pgd") and eps in (0.0, 0.4)), ceilings=ceilings()
    ),
    "levels": lambda: comparison_report(levels(), ceilings=ceilings(200)[1:]),
    "paired": lambda: paired_report(levels(), "none", "magnet"),
    "empty": lambda: comparison_report([]),
    "one-cell": lambda: comparison_report(chosen(lambda d, m, eps: (d, m, eps) == ("ismn", "fgsm", 0.3))),
}


def shown(report: Report, ending: str) -> str:
    """Return the report by file ending: 80.txt and the like for a terminal of that width, md, tex, csv, json."""
    if not ending.endswith("txt"):
        return render_text(report, {"md": "markdown", "tex": "latex"}.get(ending, ending))
    stream = io.StringIO()
    Console(width=int(ending.split(".")[0]), file=stream, color_system=None).print(render(report, "rich"))
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


@pytest.mark.parametrize(
    "name",
    [
        "comparison.80.txt",
        "comparison.100.txt",
        "comparison.120.txt",
        "comparison.md",
        "quickstart.80.txt",
        "quickstart.md",
        "attack.80.txt",
        "attack-levels.100.txt",
        "attack-levels.md",
        "defend.80.txt",
        "defend.md",
        "levels.100.txt",
        "levels.md",
        "paired.120.txt",
        "paired.md",
        "paired.csv",
        "comparison.tex",
        "levels.tex",
        "paired.tex",
        "empty.80.txt",
        "empty.md",
        "empty.tex",
        "one-cell.json",
        "one-cell.csv",
    ],
)
def test_report_is_as_it_was(name: str) -> None:
    report, ending = name.split(".", 1)
    text = shown(REPORTS[report](), ending)
    if os.environ.get("ISMN_UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
