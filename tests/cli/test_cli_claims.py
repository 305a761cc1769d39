"""`ismn claims`, in the small world: verdicts under every reading, the planted one found, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ismn_cli.core.claim_files import load_claims
from ismn_cli.core.store import Store

pytestmark = pytest.mark.usefixtures("small")
Rows = list[dict[str, Any]]
READINGS = [
    {"name": "linf", "means": "L-inf on [0, 1]", "attacks": ["fgsm", "pgd"]},
    {"name": "tanh", "means": "L-inf on [-1, 1]", "eps": "level/2", "attacks": ["fgsm", "pgd"]},
    {
        "name": "noise",
        "means": "sigma",
        "eps": 1,
        "worst_case": False,
        "attacks": [{"method": "gn", "params": {"std": "level"}}],
    },
    {
        "name": "l2",
        "means": "L2",
        "norm": "l2",
        "attacks": [
            {"name": "fgm", "method": "pgd-ensemble", "params": {"loss": "ce", "steps": 1, "random_start": False}},
            {"name": "pgd", "method": "pgd-ensemble", "params": {"loss": "ce"}},
        ],
    },
]
LEVELS = (0.1, 0.2, 0.4)
TRAINED = ("ismn", "magnet", "ddsa")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the trained systems are copied from, once there are any."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def trained(ismn, store: Store, kept: Path) -> None:
    if any(kept.iterdir()):
        shutil.copytree(kept, store.root, dirs_exist_ok=True)
        return
    for system in ("classifier", *TRAINED):
        assert ismn("train", "--system", system).code == 0
    shutil.copytree(store.root, kept, dirs_exist_ok=True)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Write a file of claims: 50 % everywhere, unless ``figures`` gives others by (system, level)."""

    def write(figures: dict[tuple[str, float], float] | None = None, **changes: Any) -> str:
        found = figures or {(name, level): 0.5 for name in ("none", *TRAINED) for level in LEVELS}
        rows: dict[str, dict[float, float]] = {}
        for (system, level), figure in found.items():
            rows.setdefault(system, {})[level] = figure
        mapping = {
            "summary": "made", "cite": "Nobody 2021", "states": "accuracy", "dataset": "cifar10",
            "metrics": ["accuracy", "restoration"], "readings": READINGS,
            "claims": [{"system": system, "figures": values} for system, values in rows.items()],
        }  # fmt: skip
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(mapping | changes), encoding="utf-8")
        return str(path)

    return write


def rows_of(ismn, *arguments: str) -> Rows:
    ended = ismn("claims", *arguments, "--format", "json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["rows"]


def files(store: Store) -> dict[str, int]:
    """Return when each cell and each batch of examples was written."""
    kept = [*(store.root / "cells").rglob("*.json"), *(store.root / "examples").rglob("*.safetensors")]
    return {str(path): path.stat().st_mtime_ns for path in kept}


def tried(rows: Rows, **wanted: Any) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("reading", "attack"), [("tanh", "fgsm"), ("noise", "gn")])
def test_the_reading_that_the_figures_come_from_is_found(
    ismn, store: Store, written: Any, reading: str, attack: str
) -> None:
    """The figures of a file are measured under one reading first: that one then has to be the nearest."""
    truth = {"reading": reading, "read_attack": attack, "metric": "accuracy", "accounting": "strict", "row": "claim"}
    first = tried(rows_of(ismn, written(), "--limit", "12"), **truth)
    planted = {(row["system"], row["attack_level"]): row["measured"] / 100 for row in first}
    assert len(planted) == 12
    before = files(store)
    ended = ismn("claims", written(planted), "--limit", "12", "--format", "json")
    assert files(store) == before, "nothing should have been computed again"
    rows = json.loads(ended.out)["rows"]
    assert {row["verdict"] for row in tried(rows, **truth)} <= {"reproduced", "impossible as stated"}
    best = min(tried(rows, row="summary", system="all"), key=lambda row: row["rank"])
    assert best["difference"] <= 0.1 and best["reproduced"] == best["claims"] == 12
    same = tried(rows, row="summary", system="all", reading=reading, read_attack=attack, metric="accuracy")
    assert min(row["difference"] for row in same) == best["difference"]
    assert f"{reading} {attack} as accuracy, strict" in json.loads(ended.out)["notes"][0]


@pytest.mark.usefixtures("trained")
def test_all_formats_say_the_same(ismn, written: Any, tmp_path: Path) -> None:
    place = written()
    rows = rows_of(ismn, place, "--limit", "12")
    table = list(csv.DictReader(io.StringIO(ismn("claims", place, "--limit", "12", "--format", "csv").out)))
    assert [{k: v or None for k, v in row.items()} for row in table] == [
        {k: None if v is None else str(v) for k, v in row.items()} for row in rows
    ]
    drawn = ismn("claims", place, "--limit", "12").out
    target = tmp_path / "out" / "table.md"
    assert ismn("claims", place, "--limit", "12", "--format", "markdown", "-o", str(target)).out == ""
    for text in (" ".join(drawn.split()), target.read_text()):
        for row in tried(rows, row="claim", reading="tanh"):
            assert f"{row['measured']:.1f} ({row['difference']:+.1f})" in text
            assert f"[{row['measured_low']:.1f}, {row['measured_high']:.1f}]" in text
        assert all(f"{row['difference']:.1f}" in text for row in tried(rows, row="summary"))
        assert "The nearest over all" in text and "first 12 of" in text


@pytest.mark.usefixtures("trained")
def test_figures_follow_from_the_stored_cells(ismn, store: Store, written: Any) -> None:
    rows = tried(rows_of(ismn, written(), "--limit", "12"), row="claim")
    assert len(rows) == 2 * 7 * 3 * (3 + 2)  # metrics, attacks, levels, systems with magnet's two accountings
    assert {row["accounting"] for row in rows if row["system"] == "magnet"} == {"strict", "rejected = success"}
    clean = {r.cell.defence.name: r for k in store.run("latest").record.cells if (r := store.cell(k)) if not r.attacked}
    right = sum(p == y for p, y in zip(clean["none"].clean.predicted, clean["none"].labels, strict=True))
    for row in rows:
        cell = store.cell(row["cell"])
        assert cell is not None and cell.attacked is not None and cell.cell.attack is not None
        columns = zip(cell.attacked.predicted, cell.attacked.rejected, cell.labels, strict=True)
        lenient = row["accounting"] != "strict"
        hits = sum((p == y and not no) or (no and lenient) for p, no, y in columns)
        assert row["measured"] == pytest.approx(100 * hits / (12 if row["metric"] == "accuracy" else right), abs=0.051)
        level = row["attack_level"]
        expected = {"linf": level, "tanh": level / 2, "noise": 1.0, "l2": level}[row["reading"]]
        assert cell.cell.attack.threat.eps == expected and cell.cell.knowledge == "gray"
        if row["reading"] == "noise":
            assert cell.cell.attack.params["std"] == level and row["ceiling"] is None
    places = {(r["reading"], r["attack_level"], r["system"], r["read_attack"]): r["cell"] for r in rows}
    assert places["tanh", 0.4, "ddsa", "pgd"] == places["linf", 0.2, "ddsa", "pgd"], "one cell for one attack"


@pytest.mark.usefixtures("trained")
def test_a_figure_above_the_ceiling_is_impossible_and_shown_beside_the_measurement(ismn, written: Any) -> None:
    figures = {("none", 0.5): 0.9, ("magnet", 0.5): 0.9}
    rows = tried(rows_of(ismn, written(figures), "--reading", "linf", "--limit", "12"), row="claim")
    strict = [row for row in rows if row["accounting"] == "strict" and row["metric"] == "accuracy"]
    assert {row["ceiling"] for row in strict} == {50.0}
    assert {row["verdict"] for row in strict} == {"impossible as stated"}
    assert all(row["measured"] is not None for row in strict)
    lenient = [row for row in rows if row["accounting"] != "strict"]
    assert lenient and all(row["ceiling"] is None and "impossible" not in row["verdict"] for row in lenient)


@pytest.mark.usefixtures("trained")
def test_systems_without_weights_are_not_tested_and_the_others_are(ismn, written: Any) -> None:
    ended = ismn("claims", written({("none", 0.2): 0.5, ("at", 0.2): 0.5}), "--limit", "6", "--format", "json")
    assert ended.code == 0, ended.err
    rows = tried(json.loads(ended.out)["rows"], row="claim")
    assert {row["verdict"] for row in rows if row["system"] == "at"} == {"not tested"}
    assert all("ismn train" in row["why"] for row in rows if row["system"] == "at")
    assert all(row["measured"] is not None for row in rows if row["system"] == "none")
    assert any("Not tested (at;" in note for note in json.loads(ended.out)["notes"])


@pytest.mark.usefixtures("trained")
def test_only_the_readings_that_are_asked_for_are_run(ismn, store: Store, written: Any) -> None:
    rows = rows_of(ismn, written(), "--limit", "6", "--reading", "tanh,noise")
    assert {row["reading"] for row in rows} == {"tanh", "noise"}
    names = {run.record.name for run in store.runs() if run.record.kind == "run"}
    assert names == {"mine-tanh", "mine-noise"}


@pytest.mark.parametrize("form", ["rich", "markdown", "csv", "json"])
def test_claims_that_cannot_be_tested_say_what_it_would_take(ismn, store: Store, tmp_path: Path, form: str) -> None:
    untested = load_claims("table4").model_dump(mode="json") | {"not_tested": "the images were lost"}
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump(untested))
    ended = ismn("claims", str(tmp_path / "lost.yaml"), "--format", form)
    assert ended.code == 0, ended.err
    text = " ".join(ended.out.split())
    assert "not tested" in text and "the images were lost" in text
    if form == "rich":
        assert text.count("unknown") == 6 * 3
    if form == "json":
        rows = tried(json.loads(ended.out)["rows"], row="claim")
        assert {row["verdict"] for row in rows} == {"not tested"} and len(rows) == 2 * 6 * 3
    assert not store.runs()


def test_what_cannot_be_run_is_refused_before_any_work(ismn, store: Store, written: Any) -> None:
    attack = {"method": "pgd", "params": {"stepps": 3}}
    bad = written(readings=[{"name": "a", "means": "", "attacks": [attack]}])
    for arguments, says in (
        (("table5",), "'table5'"),
        (("table3", "--reading", "linf-tan"), "Did you mean 'linf-tanh'?"),
        (("table3", "--format", "htlm"), "Did you mean 'html'?"),
        (("table3", "--limit", "0"), "leaves no images"),
        (("table3", "--reading", ""), "names no reading"),
        ((bad,), "stepps"),
    ):
        ended = ismn("claims", *arguments)
        assert ended.code == 2 and says in ended.err and "Traceback" not in ended.err and ended.out == ""
    assert not store.runs()


def test_a_recipe_is_sent_to_the_other_door(ismn) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    ended = ismn("claims", str(recipe))
    assert ended.code == 2 and "is a recipe" in ended.err and "ismn run" in ended.err


@pytest.mark.usefixtures("trained")
def test_the_shipped_table_3_runs_as_it_is(ismn) -> None:
    rows = rows_of(ismn, "table3", "--limit", "6")
    readings = {(r.name, attack.label) for r in load_claims("table3").readings for attack in r.attacks}
    claimed = tried(rows, row="claim")
    assert {(row["reading"], row["read_attack"]) for row in claimed} == readings
    assert all(row["measured"] is not None for row in claimed)
    assert len(claimed) == 2 * len(readings) * (3 * 3 + 2 * 3)
