"""What an audit finds: a check, asked of something, and its answer. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Frozen
from ismn_cli.core.storage import read_bytes, write_text

AUDIT = "audit.json"


class Verdict(StrEnum):
    """The answer of a check, from good to bad. What was not run has not passed."""

    PASS = "pass"
    NOT_RUN = "not run"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One test of whether a robustness figure can be believed."""

    code: str
    """Stable, such as "GM03": scripts and papers may refer to it."""
    name: str
    """Stable, in a few words with hyphens, such as "zero-gradient"."""
    asks: str
    """What it asks, in words for somebody who has never heard of gradient masking."""
    flags: str
    """What it flags, with thresholds and tolerances."""
    remedy: str
    """What to do where it flags."""
    source: str

    @property
    def title(self) -> str:
        """Return code and name."""
        return f"{self.code} {self.name}"


class Finding(Frozen):
    """What one check says of one subject."""

    code: str
    """The check's; see `ismn_cli.core.checks.CHECKS`."""
    verdict: Verdict
    subject: str
    """What was asked: a system, perhaps under an attack, such as "ismn, white-box, 8/255"; or an attack."""
    says: str
    """One sentence, with the figures that decide. Why not, where it was not run."""
    evidence: dict[str, JsonValue] = {}
    """The figures, for machines."""
    cells: tuple[str, ...] = ()
    """Keys of the cells whose figures a failure makes unreliable."""


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict: fail before warn before not run before pass; of nothing, not run."""
    order = list(Verdict)
    found = [order.index(finding.verdict) for finding in findings]
    return order[max(found)] if found else Verdict.NOT_RUN


class Audit(Frozen):
    """What an audit of one run found, as stored beside the run's record."""

    schema_version: Literal[1] = 1
    run: str
    cells: tuple[str, ...]
    """Keys of the cells that were audited."""
    findings: tuple[Finding, ...]

    def unreliable(self) -> dict[str, tuple[str, ...]]:
        """Return the cells whose figures failed checks make unreliable, by key, with the codes of these checks."""
        found: dict[str, set[str]] = {}
        for finding in self.findings:
            if finding.verdict is Verdict.FAIL:
                for key in finding.cells:
                    found.setdefault(key, set()).add(finding.code)
        return {key: tuple(sorted(codes)) for key, codes in found.items()}


def read_audit(folder: Path) -> Audit | None:
    """Return the audit stored in a run's ``folder``; None where there is none that can be read."""
    try:
        return Audit.model_validate_json(read_bytes(folder / AUDIT) or b"")
    except (UsageError, ValidationError):
        return None


def write_audit(folder: Path, audit: Audit) -> None:
    """Store ``audit`` in a run's ``folder``. Raises UsageError where the disk refuses."""
    write_text(folder / AUDIT, json.dumps(audit.model_dump(mode="json"), indent=1))
