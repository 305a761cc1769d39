"""`ismn report --compare`: two systems from the store, in every format, and what is refused."""

from __future__ import annotations

import csv
import io
import json

import pytest

from ismn_cli.core.records import Answers, CellResult, Environment
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Samples, Subject, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.reporting.render import FORMATS

pytestmark = pytest.mark.usefixtures("small")
ENVIRONMENT = Environment(ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1)


def answers(right: int, n: int) -> Answers:
    predicted = tuple(int(i >= right) for i in range(n))
    return Answers(predicted=predicted, flagged=(False,) * n, rejected=(False,) * n, score=(0.0,) * n, loops=(0,) * n)


def attacked(system: str, right: int, method: str = "pgd", n: int = 20) -> CellResult:
    """Return a gray-box cell on ``n`` images of which the first ``right`` hold."""
    where = Cell(
        classifier=Subject(name="classifier", weights="c" * 64),
        defence=Subject(name=system, weights=system * 8),
        samples=Samples(dataset="cifar10", split="test", count=n, total=10_000, ids=f"{n:064d}", data="d" * 64),
        knowledge=Knowledge.GRAY,
        attack=AttackSpec(method=method, threat=ThreatModel(eps=0.1)),
        seed=0,
        batch_size=20,
    )
    fields = {"failed": (False,) * n, "linf": (0.1,) * n, "l2": (1.0,) * n}
    return CellResult(
        cell=where, ids=range(n), labels=(0,) * n, clean=answers(n, n), attacked=answers(right, n), **fields
    )


def put(store: Store, *found: CellResult) -> None:
    """Store the cells as one finished run."""
    run = store.start_run("attack", "made", {}, ENVIRONMENT, "a" * 64)
    for result in found:
        store.put_cell(result)
    run.update(status="done", cells=tuple(result.cell.key() for result in found))


@pytest.fixture
def two(store: Store) -> Store:
    put(store, *(attacked(name, right, m) for name, right in (("none", 4), ("ismn", 14)) for m in ("fgsm", "pgd")))
    return store


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.usefixtures("two")
def test_two_systems_are_compared_in_every_format(ismn, form: str) -> None:
    ended = ismn("report", "--compare", "ismn, none", "--format", form)
    assert ended.code == 0, ended.err
    assert "ismn" in ended.out and "none" in ended.out and "50.0" in ended.out
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(ended.out)))
        assert [(row["attack"], row["only_first"], row["only_second"]) for row in rows] == [
            ("worst case", "10", "0"),
            ("fgsm", "10", "0"),
            ("pgd", "10", "0"),
        ]
    if form == "json":
        assert [row["p_holm"] for row in json.loads(ended.out)["rows"]] == pytest.approx([3 * 2 / 1024] * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("compare", "says", "hints"),
    [
        ("ismn,nnoe", "'nnoe'", "Did you mean 'none'?"),
        ("ismn", "takes two systems, not 'ismn'", "--compare ismn,none"),
        ("ismn,ismn", "takes two systems", "--compare ismn,none"),
        ("ismn,none,none", "takes two systems", "--compare ismn,none"),
        ("", "takes two systems", "--compare ismn,none"),
    ],
)
@pytest.mark.usefixtures("two")
def test_names_that_cannot_be_compared(ismn, compare: str, says: str, hints: str) -> None:
    ended = ismn("report", "--compare", compare)
    assert ended.code == 2 and ended.out == ""
    assert says in ended.err and hints in ended.err and "Traceback" not in ended.err


def test_other_images_are_refused_with_the_reason(ismn, store: Store) -> None:
    put(store, attacked("none", 4), attacked("ismn", 4, n=10))
    ended = ismn("report", "--compare", "none,ismn")
    assert ended.code == 2 and "numbers of images differ (20 and 10)" in ended.err


@pytest.mark.parametrize("command", ["report", "claims", "ceiling"])
def test_the_help_names_every_format(ismn, command: str) -> None:
    told = " ".join(ismn(command, "--help").out.replace("│", " ").split())
    assert f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}." in told


def test_the_schema_is_printed_whatever_else_is_asked(ismn) -> None:
    ended = ismn("report", "--schema", "--format", "nonsense")
    assert ended.code == 0 and json.loads(ended.out)["$schema"].endswith("2020-12/schema")


@pytest.mark.usefixtures("two")
def test_what_the_store_has_lost_is_told_once_all_has_been_read(ismn, store: Store) -> None:
    (lost, *_) = store.root.glob("cells/*/*.json")
    lost.unlink()
    ended = ismn("report", "--format", "csv")
    assert "1 cells are missing" in ended.err and "no results" not in ended.err
    assert len([row for row in csv.DictReader(io.StringIO(ended.out)) if row["attacks"] == ""]) == 3
    for path in store.root.glob("cells/*/*.json"):
        path.unlink()
    ended = ismn("report", "--format", "csv")
    assert ended.code == 0 and "4 cells are missing" in ended.err and "ismn run quickstart" in ended.err


def test_an_empty_store_has_nobody_to_compare(ismn) -> None:
    ended = ismn("report", "--compare", "none,ismn")
    assert ended.code == 2 and "ismn run quickstart" in ended.err and "'none'" in ended.err
