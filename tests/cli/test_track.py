"""`--track`: what trackers are told, read back from event files and from trackers of one's own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world

from ismn_cli.core.store import Store
from ismn_cli.stages import curves
from ismn_cli.stages.train import CHECKPOINT

Curve = list[tuple[int, float]]
OWN = """
import json, random, numpy, torch

class Lines:
    def __init__(self, run, folder, step):
        self.file = (folder / "told.jsonl").open("a")
        self.write(run=run, start=step)
    def write(self, **what):
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1), torch.rand(3)
        self.file.write(json.dumps(what) + "\\n")
    def hparams(self, values): self.write(recipe=values)
    def scalar(self, name, value, step): self.write(name=name, value=value, step=step)
    def close(self): self.write(closed=True); self.file.close()

class Broken(Lines):
    def __init__(self, run, folder, step): raise SystemExit("no opening")
class Deaf(Lines):
    def hparams(self, values): raise OSError("no recipe")
class Weak(Lines):
    count = 0
    def scalar(self, name, value, step):
        self.count += 1
        if self.count == 5: raise RuntimeError("no fifth")
class Last(Lines):
    def close(self): raise ValueError("no end")

THING = 3
def narrow(run): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with trackers of one's own."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events(folder: Path) -> dict[str, Curve]:
    """Return every curve of a run's event files, as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def single(value: float) -> float:
    """Return ``value`` as an event file holds it."""
    return float(np.float32(value))


def told(folder: Path, name: str = "told.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_curves_of_a_training(ismn, store: Store) -> None:
    assert ismn("train", "--system", "ismn", "--track", "tensorboard").code == 0
    run = store.run("latest")
    found, figures = events(run.folder), run.record.figures
    for tag, curve in found.items():
        steps = [step for step, _ in curve]
        assert steps == sorted(set(steps)), tag
    # base has 8 epochs of 6 steps, cleaning 2 after it
    assert [step for step, _ in found["base/loss"]][:6] == [1, 3, 5, 6, 8, 10]
    assert found["base/loss"][-1] == (80, single(figures["base"]["loss"]))
    assert found["cleaning/loss"][-1] == (100, single(figures["cleaning"]["loss"]))
    assert {value for _, value in found["base/lr"]} == {single(0.1)}
    assert [step for step, _ in found["cleaning/validation accuracy"]] == [90, 100]
    for part, own_figures in figures.items():
        for name, value in own_figures.items():
            assert found[f"closing/{part}/{name}"] == [(101, single(value))]


def test_the_last_measured_accuracy_of_a_classifier_is_that_of_its_weights(ismn, store: Store) -> None:
    import torch

    from ismn_cli.stages.resolve import resolve

    assert ismn("train", "--system", "classifier", "--epochs", "3", "--track", "tensorboard").code == 0
    net = resolve("none", "auto", store, small_world.KIND).pipeline.base
    images = small_world.load("validation")
    with torch.no_grad():
        right = net(images.pixels / 255).argmax(1) == images.labels
    curve = events(store.run("latest").folder)["base/validation accuracy"]
    assert len(curve) == 3 and curve[-1][1] == single(right.float().mean().item())


def test_what_the_table_of_hyperparameters_is_made_of(ismn, store: Store) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    assert ismn("train", "--system", "classifier", "--epochs", "1", "--track", "tensorboard").code == 0
    read = accumulator.EventAccumulator(str(store.run("latest").folder / "tensorboard"))
    read.Reload()
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = parse_session_start_info_plugin_data(content).hparams
    assert values["config.lr"].number_value == 0.1 and values["system"].string_value == "classifier"
    (text,) = read.Tensors("recipe/text_summary")
    assert b"    system: classifier" in text.tensor_proto.string_val[0]


def test_a_killed_training_gives_one_clean_curve(ismn, store: Store, tmp_path: Path) -> None:
    command = ("train", "--system", "ismn", "--seed", "3", "--epochs", "3", "--track", "tensorboard")
    root = Path(__file__).parents[2]
    killed = tmp_path / "killed"
    environment = os.environ | {
        "ISMN_HOME": str(killed),
        "SMALL_WORLD_RELEASED": str(tmp_path / "released"),
        "PYTHONPATH": f"{root}:{root / 'models'}",
        "OMP_NUM_THREADS": "1",
        "SMALL_WORLD_SLEEP": "0.05",
    }
    process = subprocess.Popen(
        [sys.executable, small_world.__file__, *command], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        _await(lambda: _after_the_second_epoch(killed), process)
    finally:
        process.kill()
        process.wait()
    assert list(killed.glob(f"runs/*/{CHECKPOINT}"))
    assert ismn(*command, "--store", str(killed)).code == ismn(*command).code == 0
    (broken,), (whole,) = Store(killed).runs(), store.runs()
    assert len(list((broken.folder / "tensorboard").iterdir())) == 2
    assert events(broken.folder) == events(whole.folder)


def _after_the_second_epoch(home: Path) -> bool:
    """Whether something was told after the checkpoint of an epoch that is not the first."""
    files = list(home.glob("runs/*/tensorboard/*")) + list(home.glob(f"runs/*/{CHECKPOINT}"))
    if len(files) < 2:
        return False
    curve = events(files[0].parents[1]).get("base/loss", [])
    return bool(curve) and curve[-1][0] % 10 != 0 and curve[-1][0] > 20


def _await(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not happened():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def test_what_goes_on_within_a_second_comes_after_what_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from ismn_cli.stages.tensorboard import TensorBoard

    # Event files are read in the order of their names: second, host, process.
    for process, step, values in ((2, 1, (1.0, 2.0, 3.0)), (1, 2, (5.0, 6.0, 7.0))):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        writer = TensorBoard(run="", folder=tmp_path, step=step)
        for place, value in enumerate(values):
            writer.scalar("loss", value, step + place)
        writer.close()
    assert events(tmp_path) == {"loss": [(1, 1.0), (2, 5.0), (3, 6.0), (4, 7.0)]}


def test_begun_again_it_is_one_curve_too(ismn, store: Store) -> None:
    command = ("train", "--system", "classifier", "--epochs", "2", "--fresh", "--track", "tensorboard")
    assert ismn(*command).code == 0
    first = events(store.run("latest").folder)
    assert ismn(*command).code == 0
    assert events(store.run("latest").folder) == first


MATRIX = """
task: matrix
name: told
defence: [none, magnet, median]
knowledge: [gray, white]
attack: {method: [fgsm, pgd], eps: [0.03, 0.1]}
draws: 3
training: {base: {system: classifier, limit: 60}, magnet: {system: magnet, classifier: base, limit: 40}}
"""


def test_a_matrix_tells_its_cells_and_worst_cases(ismn, store: Store, own: Path) -> None:
    (own / "told.yaml").write_text(MATRIX)
    command = ("run", "told.yaml", "--limit", "12", "--track", "tensorboard", "--track", "own.py:Lines")
    assert ismn(*command).code == 0
    run = store.run("latest")
    first = events(run.folder)
    _compare_with_the_report(first, run.folder)
    # The trainings inside have event files of their own.
    assert all(events(other.folder) for other in store.runs())
    lines = told(run.folder)
    assert lines[0] == {"run": run.record.id, "start": 0} and lines[1]["recipe"] == run.record.recipe
    assert lines[-1] == {"closed": True}
    assert {line["name"]: [(0, single(line["value"]))] for line in lines[2:-1]} == first
    assert len(lines) == len(first) + 3, "something was told twice"
    # Everything is stored now: told again, and still once.
    assert ismn(*command).code == 0
    assert events(run.folder) == first


def _compare_with_the_report(found: dict[str, Curve], folder: Path) -> None:
    left = dict(found)
    with (folder / "report.csv").open() as stream:
        for row in csv.DictReader(stream):
            place = " ".join(filter(None, (row["defence"], row["knowledge"], row["attack"], row["level"])))
            for column in curves.COLUMNS:
                if row.get(column):
                    assert left.pop(f"{place}/{column}") == [(0, single(float(row[column])))], place
    timed = ("/latency_ms", "/attack_ms")
    assert left and all(tag.endswith(timed) for tag in left)
    assert "median all worst case 0.1/robust_accuracy_low" in found


@pytest.mark.parametrize("trackers", [("tensorboard",), ("own.py:Lines",)])
def test_it_changes_no_result_and_no_identity(
    ismn, own: Path, tmp_path: Path, trackers: tuple[str, ...]
) -> None:
    (own / "told.yaml").write_text(MATRIX)
    stores = []
    for name, options in (("with", [word for t in trackers for word in ("--track", t)]), ("without", [])):
        arguments = ("run", "told.yaml", "--limit", "6", "--store", str(tmp_path / name), *options)
        assert ismn(*arguments).code == 0
        stores.append(Store(tmp_path / name))
    first, second = ({run.record.id: run for run in store.runs()} for store in stores)
    assert set(first) == set(second) and len(first) == 3
    for run_id, run in first.items():
        same = {"recipe", "weights", "figures", "cells", "notes", "status"}
        assert run.record.model_dump(include=same) == second[run_id].record.model_dump(include=same)
        report = run.folder / "report.csv"
        if report.exists():
            assert report.read_bytes() == (second[run_id].folder / "report.csv").read_bytes()


def test_the_tracker_of_the_documentation(ismn, store: Store, own: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/trackers.md").read_text()
    (own / "lines.py").write_text(page.split("```python\n")[1].split("```")[0])
    ended = ismn("train", "--system", "classifier", "--epochs", "2", "--track", "lines.py:Lines")
    assert ended.code == 0 and "is told nothing more" not in ended.err
    run = store.run("latest")
    first, *lines = told(run.folder, "figures.jsonl")
    assert first == {"recipe": run.record.recipe}
    figures = {line["name"]: line["value"] for line in lines}
    assert all(figures[f"closing/test/{name}"] == value for name, value in run.record.figures["test"].items())


@pytest.mark.parametrize("name", ["Broken", "Deaf", "Weak", "Last"])
def test_a_tracker_that_raises_costs_nothing(ismn, store: Store, own: Path, name: str) -> None:
    trackers = ("--track", f"own.py:{name}", "--track", "own.py:Lines")
    ended = ismn("train", "--system", "classifier", "--epochs", "2", *trackers)
    assert ended.code == 0 and store.run("latest").record.status == "done"
    assert ended.err.count("is told nothing more") == 1 and f"own.py:{name}" in ended.err and "no " in ended.err
    lines = told(store.run("latest").folder)
    assert any("closing" in line.get("name", "") for line in lines) and lines[-1].get("closed")


def test_an_accuracy_that_cannot_be_measured_is_left_out(ismn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from ismn_cli.stages import measure

    # Only what measures after an epoch takes it from there.
    monkeypatch.setattr(measure, "clean_figures", lambda *_: 1 / 0)
    ended = ismn("train", "--system", "classifier", "--epochs", "3", "--track", "tensorboard")
    assert ended.code == 0 and ended.err.count("No accuracy is measured") == 1
    found = events(store.run("latest").folder)
    assert "base/validation accuracy" not in found and len(found["base/loss"]) == 18


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensorbord", "Did you mean 'tensorboard'?"),
        ("own.py", "Write own.py:NAME. It has: Broken, Deaf"),
        ("own.py:Linse", "Did you mean 'Lines'?"),
        ("own.py:THING", "cannot be called with run=..., folder=..., step=..."),
        ("own.py:narrow", "cannot be called with run=..., folder=..., step=..."),
        ("nowhere.at.all:Lines", "nowhere"),
        ("", "tracker"),
    ],
)
@pytest.mark.parametrize("command", [("train", "--system", "classifier"), ("attack",), ("run", "told.yaml")])
def test_bad_names_are_refused_before_any_work(
    ismn, store: Store, own: Path, name: str, says: str, command: tuple[str, ...]
) -> None:
    (own / "told.yaml").write_text(MATRIX)
    ended = ismn(*command, "--track", name)
    assert ended.code == 2 and says in ended.err and not (store.root / "runs").exists()


def test_a_missing_extra_says_what_to_install(ismn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    ended = ismn("train", "--system", "classifier", "--track", "tensorboard")
    assert ended.code == 2 and 'pip install "ismn-cli[tensorboard]"' in ended.err
    assert not (store.root / "runs").exists()


def test_a_finished_training_says_that_it_has_nothing_to_tell(ismn, store: Store) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    ended = ismn("train", "--system", "classifier", "--epochs", "1", "--track", "tensorboard")
    assert ended.code == 0 and "nothing to tell" in ended.err
