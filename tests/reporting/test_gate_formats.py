"""The gate as JUnit XML and as markdown: what is written is what is read back, whatever the names."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW, TRICKY

from ismn_cli.core.gate import Case, Gate, Ruling
from ismn_cli.core.gate_rules import Bound, parse_rules
from ismn_cli.reporting.gate_text import HEAD, markdown, rows, verdict
from ismn_cli.reporting.junit import junit

(RULE,) = parse_rules(Bound.MIN, ["robust_accuracy=0.45"])
NASTY = (*TRICKY, "a<b & \"c\" 'd' 🦊\nend", "]]>", "<!-- -->", "&amp;", "\ttab\r\n", "a.b.c")
TEXTS = st.sampled_from(NASTY) | st.text(max_size=20)
XML_TEXTS = st.sampled_from(NASTY) | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
DECIMAL, COUNT = re.compile(r"[0-9]+\.[0-9]{3}"), re.compile("[0-9]+")
SUITE = {
    "name": re.compile(".*", re.DOTALL),
    "package": re.compile(".+"),
    "id": COUNT,
    "tests": COUNT,
    "failures": COUNT,
    "errors": COUNT,
    "skipped": COUNT,
    "time": DECIMAL,
    "timestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"),
    "hostname": re.compile(".+"),
}
"""All that Ant's schema asks of a suite, none of which Jenkins's forbids."""


@st.composite
def gates(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> Gate:
    def case(system: str) -> Case:
        ruling, seconds = draw(st.sampled_from(Ruling)), draw(st.floats(0, 1e7))
        return Case(system, draw(texts), RULE, draw(texts), ruling, draw(texts), (draw(texts),), seconds)

    systems = draw(st.lists(texts.filter(bool), min_size=1, max_size=3, unique=True))
    cases = [case(system) for system in systems for _ in range(draw(st.integers(1, 3)))]
    return Gate(draw(texts), draw(texts), "2026-01-02T03:04:05.678901+00:00", tuple(cases))


def check_schema(root: ElementTree.Element) -> None:
    """Hold the document against Ant's schema and that of Jenkins's xunit plugin, written out for what we emit."""
    assert root.tag == "testsuites" and not root.attrib
    for suite in root:
        assert suite.tag == "testsuite" and suite.attrib.keys() == SUITE.keys()
        assert all(SUITE[name].fullmatch(value) for name, value in suite.attrib.items())
        tags = [child.tag for child in suite]
        assert tags == ["properties", *["testcase"] * int(suite.get("tests", "")), "system-out", "system-err"]
        assert all(p.tag == "property" and p.attrib.keys() == {"name", "value"} for p in suite[0])
        for test in suite.iter("testcase"):
            assert test.attrib.keys() == {"name", "classname", "time"} and DECIMAL.fullmatch(test.get("time", ""))
            assert len(test) <= 1
            assert all(e.tag in ("failure", "error") and e.attrib.keys() == {"type", "message"} for e in test)


@FEW
@given(gates(XML_TEXTS))
def test_what_is_written_as_junit_is_read_back(gate: Gate) -> None:
    root = ElementTree.fromstring(junit(gate).encode())
    check_schema(root)
    systems = list(dict.fromkeys(case.system for case in gate.cases))
    assert [suite.get("name") for suite in root] == systems
    tests = list(root.iter("testcase"))
    for case, test in zip(gate.cases, tests, strict=True):
        assert test.get("classname") == case.system and test.get("name") == f"{case.figure}, at least 45 %"
        found = [(problem.tag, problem.get("message")) for problem in test]
        tags = {Ruling.FAILED: "failure", Ruling.UNRELIABLE: "error"}
        assert found == ([(tags[case.ruling], case.says)] if case.ruling in tags else [])
    for name, ruling in (("failures", Ruling.FAILED), ("errors", Ruling.UNRELIABLE)):
        assert sum(int(suite.get(name, "")) for suite in root) == sum(case.ruling is ruling for case in gate.cases)


@FEW
@given(gates(TEXTS | st.text(st.characters(categories=["Cc", "Cs", "Cn"]), max_size=5)))
def test_whatever_a_name_holds_the_xml_is_well_formed(gate: Gate) -> None:
    check_schema(ElementTree.fromstring(junit(gate).encode()))


def test_a_run_that_is_not_whole_is_an_error_of_its_own() -> None:
    case = Case("", "whole run", None, "incomplete", Ruling.UNRELIABLE, "Run 'x' is not finished.")
    root = ElementTree.fromstring(junit(Gate("x", "", "", (case,))))
    check_schema(root)
    assert root[0].get("name") == "run" and root[0].get("errors") == "1"
    assert "Run 'x' is not finished." in root.find(".//error").get("message")


@FEW
@given(gates(TEXTS))
def test_markdown_has_a_row_per_case_and_no_live_markup(gate: Gate) -> None:
    lines = markdown(gate).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(gate.cases)
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(HEAD) + 1 for line in table)
    assert not re.search(r"(?<!\\)(?:\\\\)*<", "\n".join(lines))
    assert lines[0] == f"### ismn {verdict(gate)}"
    assert all(row[0] in line for row, line in zip(rows(gate), table[2:], strict=True))
