"""What a gate found as JUnit XML: a suite per system, a test per case.

It satisfies the schema of Ant's JUnit task (github.com/windyroad/JUnit-Schema) and that of Jenkins's xunit plugin
(junit-10.xsd), which between them bound what GitHub's reporters, GitLab and Jenkins read. A bar missed is a failure;
a figure that cannot be trusted is an error. Times are those of the measurement, in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree

from ismn_cli.core.gate import Case, Gate, Ruling

_ELEMENTS = {Ruling.FAILED: "failure", Ruling.UNRELIABLE: "error"}
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""
_RUN = "run"
"""The suite of what belongs to no system."""


def junit(gate: Gate) -> str:
    """Return the document, with its declaration."""
    root = ElementTree.Element("testsuites")
    for number, (system, cases) in enumerate(groupby(gate.cases, lambda case: case.system)):
        root.append(_suite(gate, system or _RUN, number, list(cases)))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(gate: Gate, system: str, number: int, cases: Sequence[Case]) -> ElementTree.Element:
    suite = _element(
        "testsuite",
        name=system,
        package="ismn.gate",
        id=str(number),
        tests=str(len(cases)),
        failures=str(sum(case.ruling is Ruling.FAILED for case in cases)),
        errors=str(sum(case.ruling is Ruling.UNRELIABLE for case in cases)),
        skipped="0",
        time=_seconds(sum(case.seconds for case in cases)),
        timestamp=gate.finished[:19] or "1970-01-01T00:00:00",
        hostname="localhost",
    )
    properties = ElementTree.SubElement(suite, "properties")
    told = {"run": gate.run} | ({"baseline": gate.baseline} if gate.baseline else {})
    properties.extend(_element("property", name=name, value=value) for name, value in told.items())
    suite.extend(_case(case, system) for case in cases)
    output = ElementTree.SubElement(suite, "system-out")
    output.text = _legal("\n".join(f"{case.figure}: {case.says}" for case in cases))
    ElementTree.SubElement(suite, "system-err")
    return suite


def _case(case: Case, system: str) -> ElementTree.Element:
    test = _element(
        "testcase", name=f"{case.figure}, {case.asked}", classname=system, time=_seconds(case.seconds)
    )
    if case.ruling in _ELEMENTS:
        test.append(_element(_ELEMENTS[case.ruling], type=case.ruling.value, message=case.says))
    return test


def _element(tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.Element(tag, {name: _legal(value) for name, value in attributes.items()})


def _legal(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _seconds(duration: float) -> str:
    return f"{duration:.3f}"
