"""Rules of a gate: what may be written, what it means, and what to write instead."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from gate_cells import a_system, tables
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.errors import UsageError
from ismn_cli.core.gate_rules import LEVELS, METRICS, Bound, parse_rules
from ismn_cli.reporting.columns import RATES


def the_rule(bound: Bound, text: str):
    (rule,) = parse_rules(bound, [text])
    return rule


def test_metrics_are_columns_of_the_report_with_their_direction() -> None:
    columns = {column.name: column.better for column in RATES}
    assert {name: "higher" if metric.more_is_better else "lower" for name, metric in METRICS.items()}.items() <= (
        columns.items()
    )


@given(tables())
def test_what_a_comparison_counts_is_what_the_rate_counts(drawn) -> None:
    system = a_system(*drawn)
    for metric in METRICS.values():
        judged = system.trials.worst_case(0.1) if metric.attacked else system.clean
        rate = metric.rate(judged)
        if metric.right is not None:
            assert (sum(metric.right(judged)), len(metric.right(judged))) == (rate.hits, rate.total)


@given(st.integers(0, 1000))
def test_a_share_and_its_percentage_are_one_number(thousandths: int) -> None:
    share, percent = Decimal(thousandths) / 1000, Decimal(thousandths) / 10
    bars = {the_rule(Bound.MIN, f"robust_accuracy={text}").bar for text in (share, f"{percent}%", f" {percent} %")}
    assert bars == {thousandths / 1000}


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_part_of_the_figure(level: str) -> None:
    rule = the_rule(Bound.MIN, f"robust_accuracy@{level}=0.5")
    assert rule.level == level and rule.figure == f"robust_accuracy@{level}"
    assert the_rule(Bound.MIN, "robust_accuracy=0.5").level is None


def test_a_drop_alone_is_one_of_the_headline() -> None:
    assert the_rule(Bound.DROP, "0.01") == the_rule(Bound.DROP, "robust_accuracy=1%")
    assert the_rule(Bound.DROP, "clean_accuracy=0.01").metric.name == "clean_accuracy"


def test_what_is_said_twice_is_asked_once() -> None:
    assert len(parse_rules(Bound.MIN, ["clean_accuracy=0.5", "clean_accuracy=50%", "clean_accuracy=0.6"])) == 2


BAD = [
    (Bound.MIN, "robust_accuracy", "no VALUE", "--min robust_accuracy=0.45"),
    (Bound.MIN, "0.45", "no VALUE", "--min robust_accuracy=0.45"),
    (Bound.MAX, "success", "no VALUE", "--max false_positive=0.05"),
    (Bound.MIN, "robust_acuracy=0.4", "'robust_acuracy'", "Did you mean 'robust_accuracy'"),
    (Bound.MAX, "false_positive_rate=0.4", "'false_positive_rate'", "Did you mean 'false_positive'"),
    (Bound.MIN, "=0.4", "''", "robust_accuracy"),
    (Bound.MIN, "robust_accuracy=", "not a number", "0.45"),
    (Bound.MIN, "robust_accuracy=%", "not a number", "0.45"),
    (Bound.MIN, "robust_accuracy=half", "not a number", "0.45"),
    (Bound.MIN, "robust_accuracy=1/2", "not a number", "0.45"),
    (Bound.MIN, "robust_accuracy=sNaN", "not a number", "0.45"),
    (Bound.MIN, "robust_accuracy=nan", "outside [0, 1]", "0.45"),
    (Bound.MIN, "robust_accuracy=inf", "outside [0, 1]", "0.45"),
    (Bound.MIN, "robust_accuracy=1e999999999999", "", "0.45"),
    (Bound.MIN, "robust_accuracy=45", "outside [0, 1]", "45%?"),
    (Bound.MIN, "robust_accuracy=145%", "outside [0, 1]", "45%"),
    (Bound.DROP, "-0.01", "outside [0, 1]", "0.45"),
    (Bound.MIN, "robust_accuracy@grey=0.4", "'grey'", "Did you mean 'gray'"),
    (Bound.MIN, "robust_accuracy@clean=0.4", "'clean'", "white"),
    (Bound.MIN, "robust_accuracy@=0.4", "''", "white"),
    (Bound.MIN, "clean_accuracy@white=0.4", "without attack", "clean_accuracy=VALUE"),
    (Bound.MIN, "success=0.4", "less is better", "--max success=VALUE"),
    (Bound.MAX, "robust_accuracy=0.4", "more is better", "--min robust_accuracy=VALUE"),
    (Bound.DROP, "false_positive=0.4", "less is better", "--max false_positive=VALUE"),
]


@pytest.mark.parametrize(("bound", "text", "says", "hints"), BAD)
def test_bad_rules(bound: Bound, text: str, says: str, hints: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_rules(bound, [text])
    assert says in error.value.message and hints in error.value.hint


@given(st.sampled_from(Bound), st.text() | st.text().map("robust_accuracy=".__add__))
def test_any_text_is_a_rule_or_bad_input(bound: Bound, text: str) -> None:
    try:
        rule = the_rule(bound, text)
    except UsageError as error:
        assert error.hint
    else:
        assert math.isfinite(rule.bar) and 0 <= rule.bar <= 1
