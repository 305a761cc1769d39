"""Counts against a tolerated share, by exact one-sided binomial tests at the 5 % level. No torch."""

from __future__ import annotations

from ismn_cli.core.findings import Verdict
from ismn_cli.core.paired import ALPHA


def more_than(hits: int, total: int, share: float) -> bool:
    """Whether ``hits`` of ``total`` are significantly more than ``share``."""
    return _p(hits, total, share, "greater") <= ALPHA


def fewer_than(hits: int, total: int, share: float) -> bool:
    """Whether ``hits`` of ``total`` are significantly fewer than ``share``."""
    return _p(hits, total, share, "less") <= ALPHA


def graded(hits: int, total: int, share: float) -> Verdict:
    """Return pass for no hits, fail for significantly more than ``share``, and else a warning."""
    if not hits:
        return Verdict.PASS
    return Verdict.FAIL if more_than(hits, total, share) else Verdict.WARN


def _p(hits: int, total: int, share: float, alternative: str) -> float:
    from scipy.stats import binomtest

    return float(binomtest(hits, total, share, alternative=alternative).pvalue) if total else 1.0


def samples(count: int) -> str:
    """Return "1 sample", "12 samples"."""
    return f"{count:,} sample{'' if count == 1 else 's'}"
