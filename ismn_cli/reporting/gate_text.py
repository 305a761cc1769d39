"""What a gate found, for people: rows of a table, a verdict, and markdown for the summary of a build."""

from __future__ import annotations

from collections.abc import Iterator

from tabulate import tabulate

from ismn_cli.core.gate import FAILED, PASSED, UNRELIABLE, Case, Gate, Ruling
from ismn_cli.reporting.markdown import escape
from ismn_cli.reporting.table import one_line

HEAD = ("verdict", "system", "figure", "measured, %", "asked")
_MARKS = {Ruling.PASSED: "✅", Ruling.FAILED: "❌", Ruling.UNRELIABLE: "⚠️"}
_WORDS = {PASSED: "passed", FAILED: "failed", UNRELIABLE: "no verdict: incomplete or unreliable"}


def rows(gate: Gate) -> list[tuple[str, ...]]:
    """Return a line of the table for each case, in the columns of HEAD."""
    return [
        tuple(one_line(text) for text in (case.ruling, case.system, case.figure, case.measured, case.asked))
        for case in gate.cases
    ]


def verdict(gate: Gate) -> str:
    """Return the verdict and how many cases met which ruling."""
    counts = [(sum(case.ruling is ruling for case in gate.cases), ruling) for ruling in Ruling]
    told = ", ".join(f"{count} {ruling}" for count, ruling in counts if count)
    return f"gate {_WORDS[gate.code]} ({told})"


def title(gate: Gate) -> str:
    """Return which run is judged, and against which other."""
    return one_line(f"run {gate.run}" + (f", baseline {gate.baseline}" if gate.baseline else ""))


def remarks(gate: Gate) -> Iterator[str]:
    """Yield what the table leaves open: why a case has not passed, how far from chance a drop is, and the attacks."""
    for case in gate.cases:
        if case.ruling is not Ruling.PASSED or case.is_drop:
            yield one_line(f"{f'{case.system}, ' if case.system else ''}{case.figure}: {case.says}")
    over = dict.fromkeys(attack for case in gate.cases for attack in case.over)
    if over:
        yield one_line(f"Attacks that were run: {', '.join(over)}. Robust means no more than to have outlived these.")


def markdown(gate: Gate) -> str:
    """Return a heading, the table and the remarks as GitHub-flavoured markdown."""
    table = [[f"{_MARKS[case.ruling]} {row[0]}", *map(escape, row[1:])] for case, row in _pairs(gate)]
    head = [escape(name) for name in HEAD]
    drawn = tabulate(table, head, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(head))
    told = "".join(f"- {escape(remark)}\n" for remark in remarks(gate))
    return f"### {escape(f'ismn {verdict(gate)}')}\n\n{escape(title(gate))}\n\n{drawn}\n\n{told}"


def _pairs(gate: Gate) -> Iterator[tuple[Case, tuple[str, ...]]]:
    return zip(gate.cases, rows(gate), strict=True)

