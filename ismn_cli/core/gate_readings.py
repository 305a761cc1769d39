"""A figure held against its bar, and the same in words."""

from __future__ import annotations

import math
from typing import NamedTuple

from ismn_cli.core.gate_rules import Bound, Rule
from ismn_cli.core.paired import ALPHA, Paired
from ismn_cli.core.rates import Rate


class Reading(NamedTuple):
    """Whether a figure clears its bar, the figure, and a sentence with all that decides."""

    cleared: bool
    measured: str
    says: str


def read_level(rule: Rule, rate: Rate, confident: bool) -> Reading:
    """Hold a rate against the bar of ``rule``; ``confident``: the worse end of its Wilson interval."""
    low, high = rate.interval()
    least = rule.bound is Bound.MIN
    end = (low if least else high) if confident else rate.value
    cleared = end >= rule.bar if least else end <= rule.bar
    says = (
        f"{_points(rate.value)} % ({rate.hits:,} of {rate.total:,}; 95 % interval {_points(low)} to {_points(high)}); "
        f"{rule.asked} is asked{_at_end('lower' if least else 'upper', confident)}."
    )
    return Reading(cleared, _interval(rate.value, low, high), says)


def read_drop(rule: Rule, counts: Paired, confident: bool) -> Reading:
    """Hold the drop from the first of two runs to the second against the bar of ``rule``.

    ``confident``: the upper end of its interval (see `Paired.interval`).
    """
    drop, p = counts.difference, counts.p_value()
    low, high = counts.interval()
    before, after = counts.both + counts.only_first, counts.both + counts.only_second
    chance = "a difference beyond chance" if p <= ALPHA else "which chance could explain"
    says = (
        f"{_points(abs(drop))} points {'below' if drop >= 0 else 'above'} the baseline: {after:,} after {before:,} of "
        f"the same {counts.total:,} images (95 % interval of the drop {_points(low)} to {_points(high)}); {rule.asked} "
        f"is allowed{_at_end('upper', confident)}. {counts.only_first:,} images were lost and {counts.only_second:,} "
        f"gained: McNemar's exact p = {p:.2g}, {chance}."
    )
    return Reading((high if confident else drop) <= rule.bar, _interval(drop, low, high), says)


def _points(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:.1f}"  # + 0.0: no "-0.0"


def _interval(value: float, low: float, high: float) -> str:
    return f"{_points(value)} [{_points(low)}, {_points(high)}]"


def _at_end(end: str, confident: bool) -> str:
    return f", at the interval's {end} end" if confident else ""
