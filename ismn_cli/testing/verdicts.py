"""Rules asked of something one after the other: what each says, and the error that names all that are broken."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch

from ismn_cli.core.checks import CHECKS
from ismn_cli.core.conformance import RULES
from ismn_cli.core.findings import Check, Finding, Verdict
from ismn_cli.engine.guard import settings_kept
from ismn_cli.engine.rng import isolated

Case = TypeVar("Case")
HARNESS = Path(__file__).resolve().parents[1]


class Said(NamedTuple):
    """The answer of one rule."""

    verdict: Verdict
    text: str


def fine(text: str) -> Said:
    """Return that a rule is kept."""
    return Said(Verdict.PASS, text)


def doubt(text: str) -> Said:
    """Return that something may be meant so, and is probably not."""
    return Said(Verdict.WARN, text)


def wrong(text: str) -> Said:
    """Return that a rule is broken."""
    return Said(Verdict.FAIL, text)


def unasked(reason: str) -> Said:
    """Return that a rule could not be asked, and why."""
    return Said(Verdict.NOT_RUN, reason)


def either(problems: Iterable[str], text: str) -> Said:
    """Return that a rule is broken by the ``problems``, or that it is kept where there are none."""
    found = "; ".join(problem for problem in problems if problem)
    return wrong(f"{found[0].upper()}{found[1:]}.") if found else fine(text)


class Rules(NamedTuple, Generic[Case]):
    """Questions by code, and those of them that the others cannot do without."""

    asked: Mapping[str, Callable[[Case], Said]]
    first: tuple[str, ...]

    def findings(self, case: Case, subject: str, seed: int) -> Iterator[Finding]:
        """Yield what each rule says; what the user's code raises breaks the rule that ran it.

        Modes, settings and random generators are as before after each.
        """
        stopped = ""
        for code, rule in self.asked.items():
            said = unasked(f"See {stopped}.") if stopped else _answer(rule, case, seed)
            if code in self.first and said.verdict is Verdict.FAIL:
                stopped = stopped or code
            yield Finding(code=code, verdict=said.verdict, subject=subject, says=said.text)


def _answer(rule: Callable[[Case], Said], case: Case, seed: int) -> Said:
    with settings_kept(), isolated(seed), torch.inference_mode(False), torch.enable_grad():
        try:
            return rule(case)
        except (Exception, SystemExit) as error:
            return wrong(f"{raised(error)}.")


def raised(error: BaseException) -> str:
    """Return what was raised, and where in the user's code, on one line."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    told = f"It raises {type(error).__name__}: {first}" if first else f"It raises {type(error).__name__}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if HARNESS not in Path(frame.filename).parents]
    own = [frame for frame in own if "site-packages" not in frame.filename] or own
    return f"{told} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else told


class ConformanceError(AssertionError):
    """Something of the user's own breaks rules: all of them, each with what was seen and what to do.

    ``findings`` holds what every rule says, those that are kept too.
    """

    def __init__(self, subject: str, findings: tuple[Finding, ...]) -> None:
        self.subject, self.findings = subject, findings
        broken = [finding for finding in findings if finding.verdict is Verdict.FAIL]
        lines = [f"{subject} breaks {len(broken)} of {len(findings)} rules."]
        for finding in broken:
            check = rule_of(finding.code)
            lines += [f"{check.title}: {check.asks}", f"  {finding.says}", f"  What to do: {check.remedy}"]
        super().__init__("\n".join(lines))


def rule_of(code: str) -> Check:
    """Return the rule or the doctor's check with this code."""
    return RULES.get(code) or CHECKS[code]


def insist(subject: str, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return ``findings``. Raises ConformanceError where any of them is a failure."""
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise ConformanceError(subject, findings)
    return findings
