"""Findings for people and machines: the worst first, with what to do; what passed in a line a check. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ismn_cli.core.checks import CHECKS
from ismn_cli.core.conformance import RULES
from ismn_cli.core.errors import unknown_name
from ismn_cli.core.findings import Check, Finding, Verdict, worst
from ismn_cli.reporting.markdown import escape
from ismn_cli.reporting.table import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

FORMATS = ("rich", "markdown", "json")
SCHEMA_VERSION = 1
STYLES = {Verdict.FAIL: "bold red", Verdict.WARN: "yellow", Verdict.NOT_RUN: "dim", Verdict.PASS: "green"}
_COUNTED = {
    Verdict.FAIL: "failed",
    Verdict.WARN: "give reason to doubt",
    Verdict.NOT_RUN: "could not be run",
    Verdict.PASS: "passed",
}


@dataclass(frozen=True)
class Group:
    """The findings of one check that came to one verdict."""

    check: Check
    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(subject, sentence) of each finding, on one line each."""
        return [(one_line(finding.subject), one_line(finding.says)) for finding in self.findings]

    def brief(self) -> str:
        """Return one line for all: the sentence where all say the same, else how many there are."""
        said = dict.fromkeys(says for _, says in self.lines)
        if len(said) == 1:
            return next(iter(said))
        return f"{self.check.asks} ({len(self.findings)} subjects)"


def render_findings(findings: Sequence[Finding], form: str, *, title: str = "") -> str | RenderableType:
    """Return ``findings`` as a renderable for "rich", else as text: "markdown" or "json".

    The worst verdict comes first, then the order of the checks. ``title`` stands above; JSON has it too. Raises
    UsageError for any other format.
    """
    if form == "rich":
        return _rich(findings, title)
    return findings_text(findings, form, title=title)


def findings_text(findings: Sequence[Finding], form: str, *, title: str = "") -> str:
    """Return ``findings`` as text that ends with a line break: "markdown" or "json"."""
    writers = {"markdown": _markdown, "json": _json}
    if form not in writers:
        raise unknown_name("format of findings", form, FORMATS)
    return writers[form](findings, title)


def summary(findings: Iterable[Finding]) -> str:
    """Return one sentence: how many failed, and which, down to how many passed."""
    found = list(findings)
    if not found:
        return "Nothing was checked."
    parts = [_count(verdict, found) for verdict in reversed(Verdict)]
    return f"Of {len(found)} findings: {', '.join(filter(None, parts))}."


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Return the findings by verdict, the worst first, and check, in the order of `CHECKS`."""
    found = list(findings)
    codes = [*CHECKS, *sorted({finding.code for finding in found} - set(CHECKS))]
    groups = (
        Group(check_of(code), verdict, tuple(f for f in found if (f.code, f.verdict) == (code, verdict)))
        for verdict in reversed(Verdict)
        for code in codes
    )
    return [group for group in groups if group.findings]


def check_of(code: str) -> Check:
    """Return the check with this code; a nameless one where a newer ismn has stored the finding."""
    return CHECKS.get(code) or RULES.get(code) or Check(code, "(unknown here)", "", "", "", "")


def _count(verdict: Verdict, findings: Sequence[Finding]) -> str:
    codes = [finding.code for finding in findings if finding.verdict is verdict]
    named = f" ({', '.join(dict.fromkeys(codes))})" if verdict in (Verdict.FAIL, Verdict.WARN) else ""
    return f"{len(codes)} {_COUNTED[verdict]}{named}" if codes else ""


def _rich(findings: Sequence[Finding], title: str) -> RenderableType:
    from rich.console import Group as Stack
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    named = _several(findings)
    for group in grouped(findings):
        verdict = Text(group.verdict.value.upper(), style=STYLES[group.verdict])
        grid.add_row(verdict, Text(group.check.title), _cell(group, named))
    head = [Text(one_line(title), style="bold"), Text()] if title else []
    return Stack(*head, grid, Text(), Text(summary(findings), style="bold"))


def _several(findings: Iterable[Finding]) -> bool:
    return len({finding.subject for finding in findings}) > 1


def _cell(group: Group, named: bool) -> Text:
    from rich.text import Text

    if not _loud(group):
        return Text(group.brief(), style="dim")
    lines = [(f"{says}\n", "") for says in _said(group, named)]
    return Text.assemble(
        (f"{group.check.asks}\n", "italic"),
        *lines,
        ("What to do: ", "bold"),
        f"{group.check.remedy}\n",
        (f"Source: {group.check.source}.\n", "dim"),
    )


def _loud(group: Group) -> bool:
    return group.verdict in (Verdict.FAIL, Verdict.WARN)


def _said(group: Group, named: bool) -> Iterator[str]:
    """Yield the sentences, each once, after the subjects that it holds for if they are to be ``named``."""
    subjects: dict[str, list[str]] = {}
    for subject, says in group.lines:
        subjects.setdefault(says, []).append(subject)
    for says, names in subjects.items():
        yield f"{'; '.join(names)}: {says}" if named else says


def _markdown(findings: Sequence[Finding], title: str) -> str:
    parts = [f"### {escape(title)}"] if title else []
    parts.append(escape(summary(findings)))
    groups = grouped(findings)
    parts += [_section(group, _several(findings)) for group in groups if _loud(group)]
    if quiet := [_line(group) for group in groups if not _loud(group)]:
        parts.append("\n".join(quiet))
    return "\n\n".join(parts) + "\n"


def _line(group: Group) -> str:
    return f"- {group.verdict.value}: {escape(f'{group.check.title}: {group.brief()}')}"


def _section(group: Group, named: bool) -> str:
    lines = [escape(group.check.asks), "", *(f"- {escape(says)}" for says in _said(group, named))]
    lines.append(f"- **What to do:** {escape(group.check.remedy)}")
    lines.append(f"- Source: {escape(group.check.source)}")
    return "\n".join([f"#### {group.verdict.value.upper()} {escape(group.check.title)}", "", *lines])


def _json(findings: Sequence[Finding], title: str) -> str:
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "verdict": worst(findings).value,
        "summary": summary(findings),
        "findings": [_entry(finding) for group in grouped(findings) for finding in group.findings],
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _entry(finding: Finding) -> dict[str, object]:
    check = check_of(finding.code)
    words = {"name": check.name, "asks": check.asks, "remedy": check.remedy, "source": check.source}
    return finding.model_dump(mode="json") | words
