"""The rules of a gate, written METRIC=VALUE or METRIC@LEVEL=VALUE: which figure must be how large.

Metrics are called as the columns of the reports. Those under attack are worst cases, sample by sample, over all
attacks of one knowledge level, or of all levels that were run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from ismn_cli.core import rates
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.rates import Judged, Rate
from ismn_cli.core.records import Outcome
from ismn_cli.core.specs import Knowledge

LEVELS = tuple(level for level in Knowledge if level is not Knowledge.CLEAN)
HEADLINE = "robust_accuracy"


class Bound(StrEnum):
    """What a rule bounds, by the option that states it."""

    MIN = "--min"
    MAX = "--max"
    DROP = "--max-drop"


@dataclass(frozen=True)
class Metric:
    """A figure that can be gated. It is measured on the cell without attack, or on a worst case."""

    name: str
    attacked: bool
    rate: Callable[[Any], Rate]
    right: Callable[[Any], list[bool]] | None
    """Per sample, for comparisons with a baseline: what counts for the system. None where less is better."""

    @property
    def more_is_better(self) -> bool:
        """Whether the figure has a lower bound, rather than an upper one."""
        return self.right is not None


def _ending(*outcomes: Outcome) -> Callable[[Judged], list[bool]]:
    return lambda judged: [outcome in outcomes for outcome in judged.outcomes()]


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("clean_accuracy", False, rates.clean_accuracy, rates.answered_right),
        Metric(HEADLINE, True, rates.robust_accuracy, _ending(Outcome.SURVIVED)),
        Metric(
            "robust_rejected_success",
            True,
            rates.robust_or_refused,
            _ending(Outcome.SURVIVED, Outcome.DETECTED),
        ),
        Metric("success", True, rates.success_rate, None),
        Metric("false_positive", False, rates.false_positive_rate, None),
    )
}
"""All of them by name; `ismn_cli.reporting.columns` has their meanings."""


@dataclass(frozen=True)
class Rule:
    """One bound on one figure. ``bar`` is a share in [0, 1]; ``level`` is None for the worst over all levels."""

    bound: Bound
    metric: Metric
    bar: float
    level: Knowledge | None = None

    @property
    def figure(self) -> str:
        """Return the name of the figure, as it is written in a rule."""
        return f"{self.metric.name}@{self.level}" if self.level else self.metric.name

    @property
    def asked(self) -> str:
        """Return the bound in words."""
        if self.bound is Bound.DROP:
            points = f"{100 * self.bar:g}"
            return f"a drop of at most {points} point{'' if points == '1' else 's'}"
        return f"at {'least' if self.bound is Bound.MIN else 'most'} {100 * self.bar:g} %"


def parse_rules(bound: Bound, texts: Iterable[str]) -> list[Rule]:
    """Read the values of one option, none twice. Raises UsageError with what to type instead."""
    return list(dict.fromkeys(_rule(bound, text) for text in texts))


def _rule(bound: Bound, text: str) -> Rule:
    figure, given, value = text.rpartition("=")
    if not given and bound is Bound.DROP:
        figure = HEADLINE
    elif not given:
        raise UsageError(f"'{bound} {text}' has no VALUE.", f"Write METRIC=VALUE, as in: {_example(bound)}")
    name, at, level = figure.strip().partition("@")
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    metric = METRICS[name]
    _check_direction(bound, metric)
    if at and not metric.attacked:
        raise UsageError(f"{name} is measured without attack: it has no level '{level}'.", f"Write {name}=VALUE.")
    if at and level not in LEVELS:
        raise unknown_name("knowledge level", level, LEVELS)
    return Rule(bound, metric, _share(bound, value), Knowledge(level) if at else None)


def _check_direction(bound: Bound, metric: Metric) -> None:
    """Refuse a bound that a worse system would clear more easily: it is a slip of the keyboard."""
    if metric.more_is_better == (bound is not Bound.MAX):
        return
    right = Bound.MIN if metric.more_is_better else Bound.MAX
    better = "more" if metric.more_is_better else "less"
    raise UsageError(f"{metric.name} has no {bound}: {better} is better.", f"Write {right} {metric.name}=VALUE.")


def _share(bound: Bound, text: str) -> float:
    """Read 0.45 or "45%". Decimal, because 45.3 / 100 in binary is not 0.453."""
    number = text.strip()
    try:
        value = float(Decimal(number[:-1]).scaleb(-2) if number.endswith("%") else Decimal(number))
    except (ArithmeticError, ValueError):
        raise UsageError(f"'{text}' is not a number.", f"Write 0.45 or 45%, as in: {_example(bound)}") from None
    if not 0 <= value <= 1:
        hint = f" Did you mean {number}%?" if 1 < value <= 100 and not number.endswith("%") else ""
        raise UsageError(f"'{text}' is outside [0, 1].", f"Write a share or a percentage, 0.45 or 45%.{hint}")
    return value


def _example(bound: Bound) -> str:
    if bound is Bound.MAX:
        return "--max false_positive=0.05"
    return f"{bound} {HEADLINE}={0.45 if bound is Bound.MIN else 0.01}"
