"""Images of one's own through the commands: from a folder, a table and a function, each the same images."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import small_world
from PIL import Image

from ismn_cli.data import places

CODE = """
import numpy as np
from pathlib import Path
from PIL import Image

def data(split):
    files = sorted((Path(__file__).parent / "pictures" / split).rglob("*.png"))
    names = ["blue", "green", "red"]
    print("noise on stdout")
    return np.stack([np.asarray(Image.open(f)) for f in files]), [names.index(f.parent.name) for f in files]

data.classes = ["blue", "green", "red"]
"""


@pytest.fixture
def pictures(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world's images as files in folders, with a table and a function that name the same ones."""
    monkeypatch.setattr(places, "_told", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    root, rows = tmp_path / "pictures", []
    for split in small_world.COUNTS:
        images = small_world.load(split)
        for i, (pixels, label) in enumerate(zip(images.pixels.numpy(), images.labels.tolist(), strict=True)):
            path = root / split / images.classes[label] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path)
            rows.append((path.relative_to(root).as_posix(), path.parent.name, split))
    with (root / "pictures.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "split"), *sorted(rows)])
    (tmp_path / "mine.py").write_text(CODE)
    return root


WAYS = {
    "folder": ["--dataset", "folder", "--data-dir", "pictures"],
    "csv": ["--dataset", "csv", "--data-dir", "pictures/pictures.csv"],
    "function": ["--dataset", "mine.py:data"],
}


def test_three_ways_to_the_same_images_give_the_same_figures(ismn, store, pictures: Path) -> None:
    figures = {}
    for way, options in WAYS.items():
        trained = ismn("train", "--system", "classifier", *options, "--seed", "1")
        assert trained.code == 0, trained.err
        attacked = ismn("attack", "--method", "fgsm", "--eps", "0.1", *options)
        assert attacked.code == 0 and "noise" not in attacked.out, attacked.err
        run = store.run("latest").record
        cells = [store.cell(key) for key in run.cells]
        figures[way] = [(c.labels, c.clean.predicted, c.attacked.predicted if c.attacked else None) for c in cells if c]
        samples = {c.cell.samples.dataset for c in cells if c}
        assert samples == {{"folder": "folder/pictures@8", "csv": "csv/pictures@8", "function": "mine.py:data@8"}[way]}
    assert figures["folder"] == figures["csv"] == figures["function"] and figures["csv"]


def test_a_run_on_data_of_a_function_is_repeated_from_its_cell(ismn, store, pictures: Path) -> None:
    assert ismn("train", "--system", "classifier", *WAYS["function"]).code == 0
    assert ismn("attack", "--method", "fgsm", "--eps", "0.1", *WAYS["function"]).code == 0
    key = store.run("latest").record.cells[-1]
    cell = store.root / "cells" / key[:2] / f"{key}.json"
    repeated = ismn("rerun", str(cell), "--format", "json")
    assert repeated.code == 0, repeated.err
    path = next((pictures / "test" / "red").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    changed = ismn("rerun", str(cell))
    assert changed.code == 2 and "The images are not those of" in changed.err
    assert ismn("attack", "--method", "fgsm", "--eps", "0.1", *WAYS["function"]).code == 0
    assert key not in store.run("latest").record.cells  # changed data are another cell


def test_a_training_is_named_after_its_data_and_found_again(ismn, store, pictures: Path) -> None:
    (pictures.parent / "deep er").mkdir()
    shutil.move("mine.py", "deep er/mine.py")
    Path("deep er/mine.py").write_text(CODE.replace('"pictures"', '".." / "pictures"'))
    trained = ismn("train", "--system", "classifier", "--dataset", "deep er/mine.py:data")
    assert trained.code == 0, trained.err
    assert store.run("latest").record.id.startswith("train-classifier-deep-er-mine.py-data-")
    missing = ismn("attack", "--dataset", "mnist.py:data")
    assert missing.code == 2 and "There is no file mnist.py" in missing.err
    other = ismn("attack", "--defence", "magnet", "--dataset", "deep er/mine.py:data")
    assert other.code == 2 and "--dataset 'deep er/mine.py:data'" in other.err


@pytest.mark.parametrize("way", WAYS)
def test_it_is_checked(ismn, pictures: Path, way: str) -> None:
    _, name, *place = WAYS[way]
    ended = ismn("data", "check", name, *place)
    assert ended.code == 0 and "all is well" in ended.out
    assert "60" in ended.out and "33.3% green" in ended.out and "noise" not in ended.out


def test_what_is_wrong_with_it_is_told_by_the_check(ismn, pictures: Path) -> None:
    with (pictures / "pictures.csv").open("a") as stream:
        stream.write("gone.png,red,test\ntest/red/000.png,,test\n")
    ended = ismn("data", "check", *WAYS["csv"][1:])
    assert ended.code == 1 and "gone.png is missing" in ended.out and "no label" in ended.out
    Path("mine.py").write_text("def data(split):\n    raise RuntimeError('no <b>disk</b>')\n")
    ended = ismn("data", "check", "mine.py:data")
    assert ended.code == 1 and "RuntimeError: no <b>disk</b>" in ended.out
    unknown = ismn("data", "check", "torchvision:SVNH")
    assert unknown.code == 2 and "Did you mean 'torchvision:SVHN'?" in unknown.err


def test_a_file_of_examples_does_not_decide_what_code_is_run(ismn, pictures: Path) -> None:
    Path("evil.py").write_text("open('executed', 'w')\ndef data(split): ...\n")
    images = small_world.load("test")
    adversarial = images.pixels.numpy()
    np.savez("given.npz", adversarial=adversarial, ids=images.ids.numpy(), labels=images.labels.numpy(),
             metadata=json.dumps({"data": {"name": "evil.py:data"}}))  # fmt: skip
    ended = ismn("score", "--examples", "given.npz", "--eps", "0.1", "--defence", "none")
    assert ended.code == 2 and not Path("executed").exists()
    assert "'evil.py:data', which is code" in ended.err, ended.err


def test_it_is_listed(ismn) -> None:
    rows = [line.split("\t") for line in ismn("list", "datasets", "--plain").out.splitlines()]
    names = [row[0] for row in rows]
    assert {"csv", "torchvision:NAME", "FILE.py:NAME"} <= set(names)
    assert "CIFAR100" in rows[names.index("torchvision:NAME")][2]
