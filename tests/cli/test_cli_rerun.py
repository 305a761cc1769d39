"""`ismn rerun`: a result repeated from its record alone; what differs is named, and nothing stored is believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world

from ismn_cli.core.store import Store
from ismn_cli.stages import cells

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def trained(ismn) -> None:
    for system in ("classifier", "magnet"):
        assert ismn("train", "--system", system).code == 0


def record(store: Store, run: str = "latest") -> Path:
    return store.run(run).folder / "record.json"


def attack(ismn, *arguments: str) -> None:
    ended = ismn("attack", "--dataset", "cifar10", "--limit", "20", *arguments)
    assert ended.code == 0, ended.err


def rows(ended: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ended.out)["rows"]
    return found


def leftovers(store: Store) -> list[Path]:
    return list((store.root / "reruns").glob("*")) if (store.root / "reruns").exists() else []


@pytest.mark.usefixtures("trained")
def test_a_run_comes_out_identical_at_every_level_and_draw(ismn, store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "all.yaml"
    recipe.write_text(
        "defence: [none, magnet, median]\nknowledge: [gray, black, white, adaptive]\nsurvivors: true\n"
        "transfer: [none]\ndataset: {name: cifar10, limit: 15}\ndraws: 3\nbatch_size: 8\nseed: 3\n"
        "attack: {method: [fgsm, pgd], eps: [0.05, 0.2], method_at: {adaptive: [pgd-ensemble]}, eot: 2,"
        " params: {pgd: {steps: 2}, pgd-ensemble: {steps: 2}}}\n"
    )
    ended = ismn("run", str(recipe))
    assert ended.code == 0, ended.err
    before = {path: path.read_bytes() for path in store.root.glob("cells/*/*.json")}
    again = ismn("rerun", str(record(store)), "--format", "json")
    assert again.code == 0, again.err
    found = rows(again)
    assert len(found) == len(store.run("latest").record.cells) == 3 * (1 + 3 * 4 + 2)
    assert {row["sameness"] for row in found} == {"identical"}
    assert "same versions" in " ".join(json.loads(again.out)["notes"])
    assert before == {path: path.read_bytes() for path in store.root.glob("cells/*/*.json")}
    assert not leftovers(store)


@pytest.mark.usefixtures("trained")
def test_one_cell_is_repeated_with_what_it_builds_on(ismn, store: Store) -> None:
    attack(ismn, "--defence", "magnet", "--knowledge", "adaptive", "--eps", "0.1", "--param", "steps=2")
    for key in store.run("latest").record.cells:
        ended = ismn("rerun", str(store.root / "cells" / key[:2] / f"{key}.json"), "--format", "json")
        assert ended.code == 0, ended.err
        assert [row["cell"] for row in rows(ended)] == [key]
        assert "not recorded with a cell" in " ".join(json.loads(ended.out)["notes"])


@pytest.mark.usefixtures("trained")
def test_what_was_changed_is_found_and_named(ismn, store: Store, tmp_path: Path) -> None:
    attack(ismn, "--eps", "0.1")
    key = store.run("latest").record.cells[1]
    content = json.loads((store.root / "cells" / key[:2] / f"{key}.json").read_text())
    flipped = (content["attacked"]["predicted"][4] + 1) % 3
    content["attacked"]["predicted"][4], content["linf"][7] = flipped, content["linf"][7] + 0.25
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    ended = ismn("rerun", str(changed), "--store", str(store.root), "--format", "json")
    (row,) = rows(ended)
    assert ended.code == 1 and row["sameness"] == "outcomes differ"
    assert json.loads(row["ids"]) == [content["ids"][4]] and row["outcomes_differ"] == 1
    for told in ("attacked.predicted: 1 by up to", "linf: 1 by up to 0.25"):
        assert told in row["figures_differ"]
    content["attacked"]["predicted"][4] = store.cell(key).attacked.predicted[4]
    changed.write_text(json.dumps(content))
    ended = ismn("rerun", str(changed), "--store", str(store.root))
    assert ended.code == 1 and "figures differ" in ended.out and "linf: 1" in ended.out
    assert not leftovers(store)


@pytest.mark.usefixtures("trained")
def test_where_it_was_made_is_set_beside(ismn, store: Store) -> None:
    attack(ismn, "--eps", "0.1")
    path = record(store)
    content = json.loads(path.read_text())
    content["environment"] |= {"python": "3.9.1", "device": "cuda:7"}
    content["environment"]["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    ended = ismn("rerun", str(path))
    assert ended.code == 0
    for told in ("torch 1.0, now", "python 3.9.1, now", "device cuda:7, now cpu"):
        assert told in " ".join(ended.out.split())


@pytest.mark.usefixtures("trained")
def test_other_weights_are_refused_and_named(ismn, store: Store) -> None:
    attack(ismn, "--defence", "none,magnet", "--eps", "0.1")
    path = record(store)
    pinned = store.cell(store.run("latest").record.cells[-1]).cell.defence.weights
    training = next(run for run in store.runs() if run.record.kind == "train")
    kept = store.root / "kept"
    shutil.move(training.folder, kept)
    ended = ismn("rerun", str(path))
    assert ended.code == 2 and "weights of" in ended.err and f"magnet (sha256 {pinned[:16]}, then run " in ended.err
    assert "--store DIR" in ended.err
    assert ismn("train", "--system", "magnet", "--epochs", "1", "--seed", "9").code == 0
    assert ismn("rerun", str(path)).code == 2
    shutil.move(kept, training.folder)
    # A newer training is there now, which `attack` would take: the pinned one is found all the same.
    assert ismn("rerun", str(path)).code == 0


@pytest.mark.usefixtures("trained")
def test_other_images_are_refused(ismn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    attack(ismn, "--eps", "0.1")
    real = small_world.load
    monkeypatch.setattr(small_world, "load", lambda *a, **k: replace(real(*a, **k), data_hash="e" * 64))
    ended = ismn("rerun", str(record(store)))
    assert ended.code == 2 and "the pixels differ" in ended.err and "--data-dir" in ended.err


@pytest.mark.usefixtures("trained")
def test_what_is_cut_continues_and_is_then_forgotten(ismn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attack(ismn, "--defence", "none,magnet", "--eps", "0.1", "--method", "fgsm,pgd")
    path = str(record(store))
    judged: list[str] = []
    real = cells.Bench.clean

    def clean(self: cells.Bench, cell: Any, *rest: Any) -> Any:
        judged.append(cell.defence.name)
        if len(judged) == 2:
            raise KeyboardInterrupt
        return real(self, cell, *rest)

    monkeypatch.setattr(cells.Bench, "clean", clean)
    cut = ismn("rerun", path)
    assert cut.code == 130 and f"ismn rerun {path}" in cut.err and len(leftovers(store)) == 1
    assert ismn("rerun", path).code == 0
    assert judged == ["none", "magnet", "magnet"] and not leftovers(store)
    judged.clear()
    assert ismn("rerun", path).code == 130  # the third looks at nothing that the second computed
    assert ismn("rerun", path, "--fresh").code == 0 and judged == ["none", "magnet", "none", "magnet"]


@pytest.mark.usefixtures("trained")
def test_a_scoring_is_repeated_from_its_file(ismn, store: Store, tmp_path: Path) -> None:
    images = small_world.load("test")
    some = [3, 50, 8, 21]
    place = tmp_path / "adv.npz"
    np.savez(place, adv=images.floats().numpy()[some], ids=np.array(some))
    ended = ismn("score", "--examples", str(place), "--eps", "0.1", "--dataset", "cifar10", "--defence", "none,magnet")
    assert ended.code == 0, ended.err
    path = record(store)
    again = ismn("rerun", str(path), "--format", "json")
    assert again.code == 0 and len(rows(again)) == 4, again.err
    key = store.run("latest").record.cells[1]
    assert "made elsewhere" in ismn("rerun", str(store.root / "cells" / key[:2] / f"{key}.json")).err
    np.savez(place, adv=1 - images.floats().numpy()[some], ids=np.array(some))
    assert "has changed since it was scored" in ismn("rerun", str(path)).err
    place.unlink()
    assert "no file or folder" in ismn("rerun", str(path)).err


@pytest.mark.usefixtures("trained")
def test_files_that_are_no_results_say_what_they_are(ismn, store: Store, tmp_path: Path) -> None:
    attack(ismn, "--eps", "0.1")
    path = record(store)
    assert ismn("report", "--format", "json", "-o", str(tmp_path / "report.json")).code == 0
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    content = json.loads(path.read_text())
    (tmp_path / "new.json").write_text(json.dumps(content | {"schema_version": 2}))
    (tmp_path / "torn.json").write_text(json.dumps(content | {"cells": [1]}))
    (tmp_path / "begun.json").write_text(json.dumps(content | {"cells": [], "status": "running"}))
    (tmp_path / "lost.json").write_text(json.dumps(content | {"cells": ["a" * 64]}))
    (tmp_path / "sly.json").write_text(json.dumps(content | {"cells": ["../../etc"]}))
    training = next(run for run in store.runs() if run.record.kind == "train").folder / "record.json"
    for file, told in (
        (tmp_path / "report.json", "is a report"), (path.parent / "audit.json", "is an audit"),
        (path.parent, "is a folder"), (tmp_path / "none.json", "cannot be read"), (tmp_path / "bad.json", "is no JSON"),
        (tmp_path / "list.json", "holds no record"), (tmp_path / "deep.json", "is no JSON"),
        (tmp_path / "new.json", "schema version 2"), (tmp_path / "torn.json", "is damaged: cells.0"),
        (tmp_path / "begun.json", "has no results yet"), (tmp_path / "lost.json", "are not in"),
        (tmp_path / "sly.json", "no key of the store"), (training, "is a training"),
    ):  # fmt: skip
        ended = ismn("rerun", str(file))
        assert ended.code == 2 and told in ended.err, (file, ended.err)
        assert "hint: " in ended.err and "Traceback" not in ended.err
