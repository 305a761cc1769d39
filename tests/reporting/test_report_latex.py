"""LaTeX for a paper: it compiles under pdflatex, whatever the names, and fits the text and the page of `article`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import HOSTILE, crowd, named
from readers import latex_tables
from report_cells import ceilings, levels, matrix

from ismn_cli.core.specs import Subject
from ismn_cli.reporting.attack_table import attack_report
from ismn_cli.reporting.comparison_table import comparison_report
from ismn_cli.reporting.defend_table import defend_report
from ismn_cli.reporting.latex import HEAD
from ismn_cli.reporting.paired_table import paired_report
from ismn_cli.reporting.render import render_text
from ismn_cli.reporting.table import Report
from ismn_cli.reporting.tex import escape

PACKAGES = re.findall(r"\\usepackage(?:\[\w+\])?\{\w+\}", HEAD)


def has_latex() -> bool:
    """Return whether pdflatex is here with the packages of the tables, which come in Debian packages of their own."""
    if shutil.which("pdflatex") is None:
        return False
    files = [re.sub(r".*\{(\w+)\}", r"\1.sty", package) for package in PACKAGES]
    return subprocess.run(["kpsewhich", *files], capture_output=True, check=False).returncode == 0


needs_tex = pytest.mark.skipif(not has_latex(), reason="pdflatex or a package of the tables is not installed")


def compiled(folder: Path, body: str) -> str:
    """Return pdflatex's log of a document in which ``body`` stands; it must not stop at anything."""
    packages = "\n".join(PACKAGES)
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (folder / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=300)
    log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return log


def latex(reports: Sequence[Report]) -> str:
    return "\n\\clearpage\n".join(render_text(report, "latex") for report in reports)


@needs_tex
def test_reports_fit_the_text_and_the_page(tmp_path: Path) -> None:
    reports = [
        comparison_report(matrix(), ceilings=ceilings()),
        comparison_report(levels(), ceilings=ceilings(200)),
        paired_report(levels(), "none", "magnet"),
        attack_report(levels()),
        defend_report(matrix()),
        comparison_report([]),
    ]
    log = compiled(tmp_path, latex(reports))
    assert not re.findall(r".*(?:Overfull|Float too large|Missing character).*", log)


@needs_tex
def test_hostile_names_compile(tmp_path: Path) -> None:
    reports = [make(crowd()) for make in (comparison_report, attack_report, defend_report)]
    log = compiled(tmp_path, latex([*reports, comparison_report(named(lambda mark: "".join(HOSTILE) + mark))]))
    assert "Missing character" not in log


@needs_tex
def test_every_sign_of_plain_text_compiles(tmp_path: Path) -> None:
    signs = [chr(code) for code in (*range(0x20, 0x500), *range(0x2000, 0x2300), 0x1F600, 0xE000, 0x10FFFF)]
    log = compiled(tmp_path, "\n\n".join(f"x{escape(sign)}x {escape(sign * 3)}" for sign in signs))
    assert "Missing character" not in log


def test_a_long_table_goes_on_in_the_next() -> None:
    base = matrix()[1]
    many = [
        base.model_copy(update={"cell": base.cell.model_copy(update={"defence": Subject(name=f"system-{i:03d}")})})
        for i in range(100)
    ]
    text = render_text(comparison_report(many), "latex")
    tables = latex_tables(text)
    assert len(tables) == 3 == text.count("\\begin{table}") and text.count("(continued)") == 2
    assert [row[0] for table in tables for row in table[1:]] == [f"system-{i:03d}" for i in range(100)]
    assert len(set(re.findall(r"\\label\{.*?\}", text))) == 3


def test_a_beginning_is_no_argument_of_the_line_end_before_it() -> None:
    text = render_text(comparison_report(named(lambda mark: f"[2pt]*{mark}")), "latex")
    assert not re.search(r"(\\\\|\\item|\\(mid|top)rule)\s*(\[|\*)", text)
    assert "{}[2pt]*" in text


def test_a_title_without_letters_has_a_label() -> None:
    assert "\\label{tab:ismn}" in render_text(replace(comparison_report(matrix()[:2]), title="🦊"), "latex")


def test_a_negative_figure_has_a_minus_and_a_name_its_hyphen() -> None:
    text = render_text(paired_report(levels(), "magnet", "none"), "latex")
    (row, *_) = [line for line in text.splitlines() if line.startswith("pgd 8/255") and "$-$" in line]
    assert re.search(r"\$-\$\d+\.\d \{\\scriptsize \[\$-\$\d+\.\d, ", row)
    assert "gray-box" in row and not re.search(r"[^$]-\d", row)
