"""Stored cells of a universal attack: that single images withstand it is no sign of anything wrong."""

from __future__ import annotations

import pytest
from audit_cells import BLACK, WHITE, attacked, clean

from ismn_cli.audit.book import open_book
from ismn_cli.audit.records import record_findings
from ismn_cli.core.findings import Verdict
from ismn_cli.stages.record_audit import strongest


@pytest.mark.parametrize(("method", "wrong"), [("uap", set()), ("pgd", {"GM01", "GM05"})])
def test_only_attacks_on_single_images_have_to_beat_one_step_and_square(method: str, wrong: set[str]) -> None:
    results = [
        clean("ddsa", 88),
        attacked("ddsa", "fgsm", range(40), level=WHITE, right=88, failed=range(88) if method == "uap" else ()),
        attacked("ddsa", "square", range(20), level=BLACK, right=88),
        attacked("ddsa", method, range(80), level=WHITE, right=88),
    ]
    found = record_findings(results)
    assert {f.code for f in found if f.verdict is Verdict.FAIL} & {"GM01", "GM05"} == wrong
    (system,) = open_book(results).systems
    assert (strongest(system) is None) == (method == "uap")
