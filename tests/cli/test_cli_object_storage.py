"""The commands on a store at a URL: an S3 server, and trainings in a folder beside it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from s3_server import Server

from ismn_cli.core.store import Store

pytest.importorskip("upath", reason="universal-pathlib is not installed: stores are folders")
pytestmark = pytest.mark.usefixtures("small")

ATTACK = ("attack", "--method", "pgd", "--eps", "8/255", "--defence", "none,magnet", "--limit", "20")


@pytest.fixture
def bucket(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"{s3.bucket()}/study"


@pytest.fixture
def trained(ismn) -> str:
    """Train magnet in the home folder; return the run's id."""
    ended = ismn("train", "--system", "magnet", "--classifier", "fresh", "--dataset", "cifar10")
    assert ended.code == 0, ended.err
    return next(line.split()[-1] for line in ended.err.splitlines() if line.startswith("run:"))


def _contents(store: Store) -> Counter[str]:
    return Counter(path.split("/")[2] for path in store.root.fs.find(store.root.path))


def _predicted(cell: bytes) -> tuple[int, ...]:
    return tuple(json.loads(cell)["attacked"]["predicted"])


def test_a_matrix_is_the_same_in_a_bucket_and_in_a_folder(ismn, bucket: str, trained: str, tmp_path: Path) -> None:
    there, here = ismn(*ATTACK, "--store", bucket), ismn(*ATTACK)
    assert there.code == here.code == 0, there.err
    assert f"none: run {trained}" in there.err and bucket in there.err

    far, near = Store.open(bucket), Store.open()
    run = far.run("latest")
    assert [found.record.kind for found in far.runs()] == ["attack"] and run.record.status == "done"
    assert run.record.cells == near.run("latest").record.cells
    for name in ("report.csv", "lives.safetensors", "audit.json"):
        assert (run.folder / name).read_bytes() == (near.run("latest").folder / name).read_bytes(), name
    assert _contents(far) == {"runs": 4, "cells": 4, "examples": 1, "ceilings": 1, "findings": 1, "store.json": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"home", "released"}  # no folder called "s3:"

    before = far.root.fs.info(run.folder.path + "/record.json")["ETag"]
    again = ismn(*ATTACK, "--store", bucket)
    assert again.code == 0 and "4 cells" in again.err, again.err
    assert before != far.root.fs.info(run.folder.path + "/record.json")["ETag"]
    assert _contents(far)["examples"] == 1


def test_what_is_read_from_a_bucket(
    ismn, bucket: str, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ismn(*ATTACK, "--store", bucket).code == 0
    assert ismn(*ATTACK[:6], "none,magnet", "--limit", "20", "--seed", "1", "--store", bucket).code == 0
    run, other = (found.record.id for found in Store.open(bucket).runs())
    cell = Store.open(bucket).cell(Store.open(bucket).run(run).record.cells[1])
    cases = [
        ("report", "--format", "markdown"),
        ("report", "--format", "html", "-o", "page.html"),
        ("list", "runs"),
        ("compare", run, run, "--format", "csv"),
        ("show", run),
        ("show", run, str(cell.ids[0])),
        ("audit", "--records"),
        ("gate", "--min", "clean_accuracy=0.1"),
        ("export", run, "--defence", "none", "-o", "adv.npz"),
        ("score", "--examples", "adv.npz", "--eps", "8/255", "--defence", "none"),
        ("defend", "--defence", "none,magnet"),
        ("rerun", f"{bucket}/runs/{run}/record.json", "--format", "csv"),
        ("plan", "quickstart", "--store", bucket),
    ]
    for case in cases:
        ended = ismn(*case, *([] if case[0] in ("rerun", "plan") else ["--store", bucket]))
        wanted = {"compare": 2, "audit": 1}  # a run with itself; nets this small are easy to doubt
        assert ended.code == wanted.get(case[0], 0), (case, ended.err)
    with np.load("adv.npz") as found:
        assert found["adversarial"].shape == (20, 3, 8, 8)
    assert b"data:image/png" in Path("page.html").read_bytes()
    names = {path.rpartition("/")[2] for path in Store.open(bucket).root.fs.find(Store.open(bucket).root.path)}
    assert any(name.startswith("life-") for name in names) and not any(name.endswith(".tmp") for name in names)

    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ISMN_HOME", bucket)
    assert ismn("report", "--run", other).code == 0
    assert not (tmp_path / "elsewhere").exists()


def test_a_training_is_refused_before_any_work(ismn, bucket: str, tmp_path: Path) -> None:
    ended = ismn("train", "--dataset", "cifar10", "--store", bucket)
    assert ended.code == 2 and not ended.out
    assert "needs a folder" in ended.err and "ismn train --store DIR" in ended.err
    assert Store.open(bucket).runs() == [] and not (tmp_path / "home").exists()


def test_a_bucket_that_is_not_there_is_told_before_any_work(ismn, s3: Server, trained: str) -> None:
    for case in [ATTACK, ("report",), ("list", "runs")]:
        ended = ismn(*case, "--store", "s3://nobody-has-this/study")
        assert ended.code == 2 and not ended.out
        assert "bucket does not exist" in ended.err and "credentials" in ended.err


def test_a_record_that_is_spoiled_in_a_bucket(ismn, bucket: str, trained: str) -> None:
    assert ismn(*ATTACK, "--store", bucket).code == 0
    store = Store.open(bucket)
    run = store.run("latest")
    key = run.record.cells[1]
    path = store.root / "cells" / key[:2] / f"{key}.json"
    whole = path.read_bytes()
    path.write_bytes(json.dumps(json.loads(whole) | {"labels": [0]}).encode())
    ended = ismn("report", "--store", bucket)
    assert ended.code == 0 and "1 cells are missing" in ended.err and "set aside" in ended.err
    assert ismn(*ATTACK, "--store", bucket).code == 0
    again = store.cell(key)
    assert (again.ids, again.attacked.predicted) == (tuple(json.loads(whole)["ids"]), _predicted(whole))
