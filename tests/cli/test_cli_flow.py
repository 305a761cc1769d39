"""The customer's commands, one after the other, in the small world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ismn_cli.core.store import Store

pytestmark = pytest.mark.usefixtures("small")


def _train(ismn, *arguments: str) -> str:
    ended = ismn("train", *arguments)
    assert ended.code == 0, ended.err
    return next(line.split()[-1] for line in ended.err.splitlines() if line.startswith("run:"))


def _files(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*") if p.is_file()}


def test_the_customers_card(ismn, store: Store) -> None:
    trained = _train(ismn, "--dataset", "cifar10")
    record = store.run(trained).record
    assert record.status == "done" and record.weights
    assert set(record.figures) == {"base", "cleaning", "test"}
    assert record.figures["test"]["clean accuracy"] > 0.8
    attacked = ismn("attack", "--method", "pgd", "--eps", "0.3")
    assert attacked.code == 0 and "pgd" in attacked.out
    assert f"none: run {trained}" in attacked.err
    assert "far above the usual 8/255" in attacked.err and "67.1%" in attacked.err
    assert "cifar10-mini" in attacked.err
    reported = ismn("report", "--format", "csv")
    assert reported.code == 0 and len(reported.out.splitlines()) == 3


def test_defend_takes_stored_examples_and_crafts_none(ismn, store: Store) -> None:
    base = _train(ismn, "--system", "classifier")
    for system in ("ismn", "magnet", "ddsa"):
        _train(ismn, "--system", system, "--classifier", base)
    assert ismn("attack", "--eps", "8/255", "--weights", base).code == 0
    before = _files(store.root / "examples")
    ended = ismn("defend", "--defence", "ismn,magnet,ddsa")
    assert ended.code == 0, ended.err
    assert _files(store.root / "examples") == before != {}
    assert all(name in ended.out for name in ("ismn", "magnet", "ddsa", "detection", "false-positive", "latency"))
    assert "crafted" not in ended.err and "anew" not in ended.err
    assert len(store.run("latest").record.cells) == 6


def test_defend_prefers_systems_around_the_examples_own_classifier(ismn, store: Store) -> None:
    base = _train(ismn, "--system", "classifier")
    near = _train(ismn, "--system", "magnet", "--classifier", base)
    other = _train(ismn, "--system", "classifier", "--seed", "5")
    _train(ismn, "--system", "magnet", "--classifier", other)
    assert ismn("attack", "--eps", "8/255", "--weights", base).code == 0
    assert f"magnet: run {near}" in ismn("defend", "--defence", "magnet").err


def test_without_stored_examples_defend_names_the_command(ismn) -> None:
    ended = ismn("defend")
    assert ended.code == 2 and "hint: Make some: ismn attack" in ended.err


def test_an_attack_is_not_repeated(ismn, store: Store) -> None:
    _train(ismn, "--system", "classifier")
    first = ismn("attack", "--eps", "8/255", "--limit", "12")
    before = _files(store.root / "cells") | _files(store.root / "examples")
    second = ismn("attack", "--eps", "8/255", "--limit", "12")
    assert second.code == 0 and second.out == first.out
    assert "2 of 2 cells were stored already" in second.err
    assert _files(store.root / "cells") | _files(store.root / "examples") == before


def test_a_finished_training_is_not_repeated_unless_fresh(ismn, store: Store) -> None:
    run = _train(ismn, "--system", "classifier", "--limit", "30")
    weights = store.run(run).folder / "weights.safetensors"
    first = weights.read_bytes(), weights.stat().st_mtime_ns
    ended = ismn("train", "--system", "classifier", "--limit", "30")
    assert ended.code == 0 and "finished already" in ended.err and "--fresh" in ended.err
    assert weights.stat().st_mtime_ns == first[1]
    assert _train(ismn, "--system", "classifier", "--limit", "30", "--fresh") == run
    assert weights.stat().st_mtime_ns > first[1] and weights.read_bytes() == first[0]
    assert not (weights.parent / "checkpoint.pt").exists()


def test_limits_are_respected_and_said(ismn, store: Store) -> None:
    run = _train(ismn, "--system", "classifier", "--limit", "24")
    assert store.run(run).record.figures["test"]["images"] == 24
    ended = ismn("attack", "--eps", "8/255", "--limit", "12")
    assert "first 12 of 30" in " ".join(ended.out.split())


def test_a_white_box_attack_is_made_on_the_defended_system(ismn, store: Store) -> None:
    base = _train(ismn, "--system", "classifier")
    _train(ismn, "--system", "ddsa", "--classifier", base)
    for knowledge in ("gray", "white"):
        options = ("--defence", "none,ddsa", "--eps", "0.1", "--param", "random_start=false")
        assert ismn("attack", *options, "--knowledge", knowledge).code == 0
    folders = list((store.root / "examples").glob("*/*"))
    assert len(folders) == 3  # one shared gray set; a white one for each system
    ended = ismn("defend")
    assert ended.code == 2 and "not gray-box" in ended.err and "hint: Make gray-box ones" in ended.err


def test_run_carries_out_matrix_and_training_recipes(ismn, store: Store, tmp_path: Path) -> None:
    training = tmp_path / "mine.yaml"
    training.write_text("task: train\nsystem: ddsa\nclassifier: fresh\nepochs: 1\n")
    assert ismn("run", str(training), "config.rate=0.2").code == 0
    record = store.run("latest").record
    assert record.kind == "train" and record.recipe["config"]["rate"] == 0.2
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text("dataset: {name: cifar10}\ndefence: [none, ddsa]\nattack: {method: [fgsm, pgd], eps: 8/255}\n")
    ended = ismn("run", str(matrix), "attack.eps=[0.1, 0.2]", "--limit", "9")
    assert ended.code == 0, ended.err
    record = store.run("latest").record
    assert len(record.cells) == 2 * (1 + 2 * 2)
    assert record.recipe["dataset"]["limit"] == 9
    report = store.run("latest").folder / "report.csv"
    # A row per cell, and each system's worst case at each size.
    assert str(report) in ended.err and len(report.read_text().splitlines()) == 1 + 10 + 2 * 2


@pytest.mark.parametrize("form", ["rich", "markdown", "csv", "json"])
def test_report_writes_every_format_to_stdout_or_a_file(ismn, tmp_path: Path, form: str) -> None:
    _train(ismn, "--system", "classifier")
    assert ismn("attack", "--eps", "8/255", "--limit", "12").code == 0
    shown = ismn("report", "--format", form)
    assert shown.code == 0 and "none" in shown.out and "pgd" in shown.out
    file = tmp_path / "out" / f"report.{form}"
    written = ismn("report", "--format", form, "-o", str(file))
    assert written.code == 0 and written.out == "" and "pgd" in file.read_text()
    assert form == "rich" or file.read_text() == shown.out
    assert form != "json" or json.loads(shown.out)["rows"]


def test_report_of_an_empty_store_is_a_table_without_rows(ismn) -> None:
    ended = ismn("report", "--format", "csv")
    assert ended.code == 0 and len(ended.out.splitlines()) == 1
    assert "ismn run quickstart" in ended.err


def test_a_corrupt_cell_is_computed_again(ismn, store: Store) -> None:
    _train(ismn, "--system", "classifier")
    ismn("attack", "--eps", "8/255", "--limit", "12")
    for path in (store.root / "cells").glob("*/*.json"):
        path.write_text(path.read_text()[:50])
    batch = next((store.root / "examples").glob("*/*/*.safetensors"))
    batch.write_bytes(batch.read_bytes()[:100])
    ended = ismn("attack", "--eps", "8/255", "--limit", "12")
    assert ended.code == 0 and ended.err.count("warning:") == 3
    assert len(list((store.root / "corrupt").iterdir())) == 3


NAMES = {
    "systems": "ddsa",
    "attacks": "rfgsm",
    "datasets": "cifar10-mini",
    "recipes": "quickstart",
    "claims": "table3",
    "checks": "GM03 zero-gradient",
}


@pytest.mark.parametrize("what", [*NAMES, "runs"])
def test_lists_are_tables_or_plain_lines(ismn, what: str) -> None:
    run = _train(ismn, "--system", "classifier")
    name = NAMES.get(what, run)
    drawn, plain = ismn("list", what), ismn("list", what, "--plain")
    assert drawn.code == plain.code == 0 and name in drawn.out
    assert name in [line.split("\t")[0] for line in plain.out.splitlines()]
