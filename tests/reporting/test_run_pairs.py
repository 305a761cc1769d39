"""Two runs image by image: what corresponds, what flipped, what is refused; simulated power and level of the test."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW, TRICKY, answers, cell, digest, levels, result, samples

from ismn_cli.core.errors import UsageError
from ismn_cli.core.paired import ALPHA, Paired, holm, power
from ismn_cli.core.rates import answered_right
from ismn_cli.core.records import Answers, CellResult, Environment, RunRecord
from ismn_cli.core.specs import Knowledge, Norm, Subject
from ismn_cli.reporting.compare_table import COLUMNS, compare_report
from ismn_cli.reporting.render import FORMATS, render_text
from ismn_cli.reporting.run_pairs import run_pairs
from ismn_cli.reporting.table import Row

HERE = Environment(ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1)
RECIPE: dict[str, Any] = {"name": "made", "dataset": {"name": "cifar10", "limit": 10}, "attack": {"eps": 0.1}}


def record(name: str = "a", kind: Any = "attack", **recipe: Any) -> RunRecord:
    fields = {"id": name, "kind": kind, "name": "made", "status": "done", "started": "now", "environment": HERE}
    return RunRecord(recipe=RECIPE | recipe, **fields)


def answered(right: Any) -> Answers:
    predicted = tuple(int(not hit) for hit in right)
    n = len(predicted)
    return Answers(predicted=predicted, flagged=(False,) * n, rejected=(False,) * n, score=(0.0,) * n, loops=(0,) * n)


def one(system: str = "ismn", right: Any = 5, method: str | None = "pgd", n: int = 10, **changes: Any) -> CellResult:
    """Return a cell on ``n`` images of which ``right``, a number of them or a column, are answered right."""
    column = [i < right for i in range(n)] if isinstance(right, int) else list(right)
    where = cell(system, method, changes.pop("eps", 0.1), **({"samples": samples(n=len(column))} | changes))
    clean = answers(len(column), len(column)) if method else answered(column)
    return result(where, clean, answered(column) if method else None)


def compared(first: list[CellResult], second: list[CellResult]) -> list[Row]:
    return compare_report((record("a"), record("b")), first, second).rows


def refused(first: list[CellResult], second: list[CellResult], *records: RunRecord) -> UsageError:
    with pytest.raises(UsageError) as caught:
        compare_report(records or (record("a"), record("b")), first, second)  # type: ignore[arg-type]
    return caught.value


@FEW
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2)))
def test_flips_are_exactly_the_samples_that_changed(columns: tuple[list[bool], list[bool]]) -> None:
    (row,) = compared([one(right=columns[0])], [one(right=columns[1], seed=1)])
    both = list(enumerate(zip(*columns, strict=True)))
    assert json.loads(row["only_first_ids"]) == [i for i, pair in both if pair == (True, False)]
    assert json.loads(row["only_second_ids"]) == [i for i, pair in both if pair == (False, True)]
    assert len(json.loads(row["only_first_ids"])) == row["only_first"]
    moved = json.loads(row["transitions"])
    assert moved.get("survived > broken", 0) == row["only_first"]
    assert moved.get("broken > survived", 0) == row["only_second"]
    assert sum(moved.values()) == sum(a != b for a, b in zip(*columns, strict=True))


def test_a_run_against_its_like_pairs_every_cell_and_worst_case() -> None:
    found = run_pairs(levels(), levels())
    assert found.alone == ((), ())
    cells = [pair for pair in found.pairs if "attacks" not in pair.pair.first.columns]
    assert len(cells) == len(levels()) and all(pair.same_cell and not pair.transitions() for pair in found.pairs)
    by_key = {r.cell.key(): r for r in levels()}
    for pair in cells:
        assert list(pair.pair.first.right) == answered_right(by_key[pair.pair.first.cell.key()])


def test_settings_that_differ_are_paired_and_told() -> None:
    rows = compared([one(params={"steps": 10})], [one(params={"steps": 40}, seed=3)])
    assert [row["settings_differ"] for row in rows] == ["seed 0 and 3; steps 10 and 40"]
    report = compare_report((record(), record("b")), [one(params={"steps": 10})], [one(params={"steps": 40})])
    assert any("not made alike (1 of 1 rows): steps 10 and 40" in note for note in report.notes)


def test_equal_settings_are_paired_before_others() -> None:
    mine = [one(right=r, params={"steps": s}) for r, s in ((4, 10), (7, 20))]
    theirs = [one(right=r, params={"steps": s}) for r, s in ((2, 20), (9, 10))]
    rows = [row for row in compared(mine, theirs) if row["attack"] != "worst case"]
    assert [(row["first_right_hits"], row["second_right_hits"]) for row in rows] == [(4, 9), (7, 2)]


def test_worst_cases_are_over_the_attacks_that_both_ran() -> None:
    mine = [one(right=6, method="fgsm"), one(right=5)]
    theirs = [one(right=6, method="fgsm", seed=1), one(right=5, seed=1), one(right=0, method="square", seed=1)]
    worst = compared(mine, theirs)[0]
    assert (worst["attack"], worst["first_right_hits"], worst["second_right_hits"]) == ("worst case", 5, 5)
    report = compare_report((record(), record("b")), mine, theirs)
    assert any(note.startswith("Only B has, and not compared: ismn gray square") for note in report.notes)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (["none", "ismn"], ["none", "magnet"], {("none", "none"), ("ismn", "magnet")}),
        (["none"], ["ismn"], {("none", "ismn")}),
        (["ismn"], ["none", "magnet"], {("ismn", "magnet")}),
        (["none", "ismn", "ddsa"], ["none", "ismn", "magnet"], {("none", "none"), ("ismn", "ismn")}),
        (["ismn"], ["none", "ismn"], {("ismn", "ismn")}),
        (["none", "ismn"], ["none"], {("none", "none")}),
    ],
)
def test_systems_are_matched_by_name_then_as_the_only_defended_ones(mine, theirs, expected) -> None:
    rows = compared([one(name) for name in mine], [one(name, seed=1) for name in theirs])
    assert {(row["first"], row["second"]) for row in rows} == expected


def test_of_two_weights_under_one_name_none_is_guessed() -> None:
    two = [one(defence=Subject(name="ismn", weights=digest(w))) for w in "xy"]
    assert "no attack in common" in refused(two, [one(seed=1)]).message


def test_every_difference_is_named_with_what_to_type() -> None:
    other = record("b", dataset={"name": "mnist", "limit": 5}, knowledge=["white"], attack={"eps": 0.2, "norm": "l2"})
    far = one(n=5, samples=samples("mnist", 5), eps=0.2, norm=Norm.L2, targeted=True, knowledge=Knowledge.WHITE)
    error = refused([one()], [far], record("a"), other)
    for reason in (
        "data sets differ (cifar10 test and mnist test)", "numbers of images differ (10 and 5)", "sample ids differ",
        "pixels differ", "knowledge levels differ (gray and white)", "norms differ (linf and l2)",
        "sizes differ (0.1 and 0.2)", "aims differ (untargeted and targeted)",
    ):  # fmt: skip
        assert reason in error.message
    for option in ("--dataset cifar10", "--limit 10", "--knowledge gray", "--norm linf", "--eps 0.1"):
        assert option in error.hint
    run = refused([one()], [far], record("a"), other.model_copy(update={"kind": "run"})).hint
    assert "ismn run made dataset.name=cifar10 dataset.limit=10 knowledge=gray" in run


def test_clean_cells_alone_do_not_hide_that_threat_models_differ() -> None:
    mine, theirs = [one(method=None), one()], [one(method=None), one(eps=0.2)]
    assert "sizes differ (0.1 and 0.2)" in refused(mine, theirs).message
    assert len(compared([one(method=None)], [one(method=None, seed=1), one()])) == 1


def test_systems_without_a_match_and_runs_without_cells_are_refused() -> None:
    error = refused([one("ismn"), one("ddsa")], [one("magnet"), one("jpeg")])
    assert "systems differ (ddsa, ismn and jpeg, magnet)" in error.message
    assert "no stored cells" in refused([], [one()]).message
    assert "It is a training" in refused([one()], [], record("a"), record("b", kind="train")).hint


def test_columns_that_contradict_each_other_are_refused() -> None:
    other = one(seed=1)
    assert "other ids or labels" in refused([one()], [other.model_copy(update={"ids": tuple(range(1, 11))})]).message


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "rich"])
def test_every_format_takes_hostile_names(form: str) -> None:
    names = [name for name in TRICKY if name.strip()]
    mine = [one(name, 4, defence=Subject(name=name, weights=digest(name))) for name in names]
    theirs = [one(name, 6, defence=Subject(name=name, weights=digest(name)), seed=1) for name in names]
    report = compare_report((record("a|b"), record("<b>")), mine, theirs)
    assert render_text(report, form)
    if form == "csv":
        read = list(csv.DictReader(io.StringIO(render_text(report, form))))
        assert list(read[0]) == [column.name for column in COLUMNS] and len(read) == len(names)
        assert all(json.loads(row["only_second_ids"]) == [4, 5] for row in read)
    if form == "markdown":
        assert "<b>x</b>" not in render_text(report, form)


@cache
def p_value(first: int, second: int) -> float:
    return Paired(0, first, second, 0).p_value()


def simulated(n: int, difference: float, differ: float, repetitions: int, seed: int) -> np.ndarray:
    """Return p of McNemar's test as `compare` has it, for pairs of runs drawn with a planted difference.

    Each repetition is an attack of its own in both runs, so that one comparison makes hundreds of them.
    """
    rng = np.random.default_rng(seed)
    chances = ((differ + difference) / 2, (differ - difference) / 2, 0.6 * (1 - differ), 0.4 * (1 - differ))
    drawn = rng.choice(4, size=(repetitions, n), p=chances)
    first, second = np.isin(drawn, (0, 2)), np.isin(drawn, (1, 2))
    runs = [
        [one(right=column, params={"steps": i}, seed=side) for i, column in enumerate(columns.tolist())]
        for side, columns in enumerate((first, second))
    ]
    by_steps = [[r.model_copy(update={"cell": r.cell.model_copy(update={"seed": 0})}) for r in run] for run in runs]
    found = [pair for pair in run_pairs(*by_steps).pairs if "attacks" not in pair.pair.first.columns]
    assert len(found) == repetitions
    counts = [pair.pair.counts() for pair in found]
    return np.array([p_value(c.only_first, c.only_second) for c in counts])


@pytest.mark.parametrize(("n", "difference", "differ"), [(100, 0.12, 0.2), (150, 0.08, 0.1), (60, 0.3, 0.5)])
def test_a_planted_difference_is_found_with_the_stated_power(n: int, difference: float, differ: float) -> None:
    p = simulated(n, difference, differ, 600, seed=n)
    stated = power(n, difference, differ)
    assert 0.5 < stated < 0.95
    assert np.mean(p <= ALPHA) == pytest.approx(stated, abs=4 * np.sqrt(stated * (1 - stated) / len(p)))


@pytest.mark.parametrize(("n", "differ"), [(100, 0.2), (60, 0.6)])
def test_two_runs_of_the_same_thing_differ_no_more_often_than_stated(n: int, differ: float) -> None:
    p = simulated(n, 0.0, differ, 600, seed=n + 1)
    exact = power(n, 0.0, differ)
    assert exact <= ALPHA
    assert np.mean(p <= ALPHA) <= exact + 4 * np.sqrt(exact * (1 - exact) / len(p))
    assert np.mean(p <= ALPHA) > 0, "the test would never reject"


def test_over_thousands_of_runs_of_the_same_thing_holm_keeps_the_level() -> None:
    """Drawn as counts: any of 8 rows of a comparison significant, in 5,000 comparisons of runs alike."""
    rng = np.random.default_rng(5)
    counts = rng.multinomial(200, (0.1, 0.1, 0.8), size=(5000, 8))
    p = np.vectorize(p_value)(counts[..., 0], counts[..., 1])
    wrong = np.mean([min(holm(row)) <= ALPHA for row in p.tolist()])
    plain = np.mean((p <= ALPHA).any(1))
    assert wrong <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / 5000) < plain


def test_over_thousands_of_runs_the_power_is_the_stated_one_to_a_percent() -> None:
    rng = np.random.default_rng(6)
    n, difference, differ = 200, 0.1, 0.2
    chances = ((differ + difference) / 2, (differ - difference) / 2, 1 - differ)
    counts = rng.multinomial(n, chances, size=20_000)
    p = np.vectorize(p_value)(counts[:, 0], counts[:, 1])
    assert np.mean(p <= ALPHA) == pytest.approx(power(n, difference, differ), abs=0.012)
