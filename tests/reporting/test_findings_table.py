"""Findings as people and machines read them: the same words, the worst first, in every format."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ismn_cli.core.checks import CHECKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.reporting.findings_table import grouped, render_findings, summary

WORDS = st.text("abc [/red]*|<&", min_size=1, max_size=30).map(lambda text: f"x{text.strip()}x")
FINDINGS = st.lists(
    st.builds(
        Finding,
        code=st.sampled_from(sorted(CHECKS)),
        verdict=st.sampled_from(Verdict),
        subject=st.sampled_from(["ismn", "net.py:Net", "[bold]"]),
        says=WORDS,
    ),
    max_size=12,
)


def drawn(findings: list[Finding], width: int = 400) -> str:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render_findings(findings, "rich", title="doctor"))
    return capture.get()


@given(FINDINGS)
@settings(deadline=None)
def test_the_worst_comes_first_and_each_finding_is_told_once(findings: list[Finding]) -> None:
    order = list(Verdict)
    groups = grouped(findings)
    assert sorted(map(repr, findings)) == sorted(repr(f) for group in groups for f in group.findings)
    ranks = [(-order.index(group.verdict), list(CHECKS).index(group.check.code)) for group in groups]
    assert ranks == sorted(set(ranks))


@given(FINDINGS)
@settings(deadline=None, max_examples=30)
def test_every_flag_is_told_with_its_remedy_and_source(findings: list[Finding]) -> None:
    text, several = drawn(findings), len({finding.subject for finding in findings}) > 1
    for finding in findings:
        assert CHECKS[finding.code].title in text
        if finding.verdict in (Verdict.FAIL, Verdict.WARN):
            assert " ".join(finding.says.split()) in text  # literally: no markup
            assert CHECKS[finding.code].remedy in text
            assert CHECKS[finding.code].source in text
            assert not several or finding.subject in text
    assert summary(findings) in text


@given(FINDINGS)
@settings(deadline=None, max_examples=30)
def test_json_holds_the_findings_whole(findings: list[Finding]) -> None:
    content = json.loads(str(render_findings(findings, "json", title="doctor")))
    fields = set(Finding.model_fields)
    back = [Finding.model_validate({k: v for k, v in entry.items() if k in fields}) for entry in content["findings"]]
    assert back == [finding for group in grouped(findings) for finding in group.findings]
    order = list(Verdict)
    worst = max((f.verdict for f in findings), key=order.index, default=Verdict.NOT_RUN)
    assert content["verdict"] == worst.value


def finding(code: str, verdict: Verdict, subject: str = "ismn", says: str = "So it is.") -> Finding:
    return Finding(code=code, verdict=verdict, subject=subject, says=says)


def test_what_passed_is_one_line_a_check() -> None:
    passed = [finding("MD06", Verdict.PASS, f"system {i}", f"All {i}.") for i in range(5)]
    lines = drawn(passed).splitlines()
    assert sum("MD06" in line for line in lines) == 1
    assert "(5 subjects)" in drawn(passed)


def test_subjects_that_share_a_sentence_share_a_line() -> None:
    text = drawn([finding("GM10", Verdict.FAIL, name) for name in ("jpeg", "sign-decoder")])
    assert "jpeg; sign-decoder: So it is." in text


def test_a_subject_alone_is_not_repeated() -> None:
    assert "ismn:" not in drawn([finding("GM10", Verdict.FAIL)])


def test_the_counts_are_summed_up() -> None:
    found = [finding("GM10", Verdict.FAIL), finding("GM03", Verdict.FAIL), finding("MD01", Verdict.NOT_RUN)]
    assert summary(found) == "Of 3 findings: 2 failed (GM10, GM03), 1 could not be run."
    assert summary([]) == "Nothing was checked."
    assert drawn([]).split() == ["doctor", "Nothing", "was", "checked."]


def test_markdown_is_escaped_and_in_sections() -> None:
    text = str(render_findings([finding("GM10", Verdict.FAIL, says="a | b <i>")], "markdown", title="net_a"))
    assert text.startswith("### net\\_a\n")
    assert "#### FAIL GM10 unavailable-gradient" in text
    assert "a \\| b \\<i\\>" in text


def test_a_code_of_a_newer_ismn_is_shown() -> None:
    assert "ZZ99" in drawn([finding("ZZ99", Verdict.FAIL)])


def test_a_narrow_terminal_loses_nothing() -> None:
    text = drawn([finding("GM10", Verdict.FAIL, says="word " * 40)], width=60)
    assert text.count("word") == 40
    assert max(map(len, text.splitlines())) <= 60


def test_other_formats_are_refused() -> None:
    with pytest.raises(UsageError, match="csv"):
        render_findings([], "csv")


def test_no_torch_is_imported() -> None:
    code = "import sys, ismn_cli.reporting.findings_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
