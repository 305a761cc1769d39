"""cifar10-mini: 1,000 exact test images, shipped whole and small, never to be trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import cifar10, mini
from ismn_cli.data.loading import load_dataset


def test_it_is_balanced_small_and_in_the_order_of_its_ids() -> None:
    images = mini.load("test")
    assert images.pixels.shape == (1000, 3, 32, 32)
    assert images.labels.bincount().tolist() == [100] * 10
    assert images.ids.diff().min() > 0
    assert images.ids.min() >= 0 and images.ids.max() < 10_000
    assert images.classes == cifar10.CLASSES
    assert mini.SHEET.stat().st_size + mini.INDEX.stat().st_size < 3_000_000


def test_no_image_that_was_not_exact_is_in_it() -> None:
    left_out = json.loads(mini.INDEX.read_text())["left_out"]
    assert len(left_out) == 18
    assert not set(left_out) & set(mini.load("test").ids.tolist())


@pytest.mark.parametrize("split", ["train", "validation"])
def test_it_can_never_be_trained_on(split: str) -> None:
    with pytest.raises(UsageError, match="can never be trained on") as caught:
        load_dataset(DataChoice(name="cifar10-mini"), split, None)
    assert "--dataset cifar10" in caught.value.hint


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(UsageError, match="'tset'"):
        mini.load("tset")


def test_a_selection_is_balanced_and_says_that_it_is_one() -> None:
    part = load_dataset(DataChoice(name="cifar10-mini", limit=100), "test", None, 0)
    assert part.labels.bincount().tolist() == [10] * 10
    assert (part.samples().count, part.samples().total) == (100, 1000)


def damaged_sheet(folder: Path) -> Path:
    pixels = np.asarray(Image.open(mini.SHEET)).copy()
    pixels[799, 1279, 2] ^= 1
    Image.fromarray(pixels).save(folder / "sheet.png")
    return folder / "sheet.png"


def short_sheet(folder: Path) -> Path:
    (folder / "sheet.png").write_bytes(mini.SHEET.read_bytes()[:1_000_000])
    return folder / "sheet.png"


def small_sheet(folder: Path) -> Path:
    Image.new("RGB", (32, 32)).save(folder / "sheet.png")
    return folder / "sheet.png"


def no_sheet(folder: Path) -> Path:
    return folder / "sheet.png"


@pytest.mark.parametrize("damage", [damaged_sheet, short_sheet, small_sheet, no_sheet])
def test_a_damaged_installation_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object
) -> None:
    monkeypatch.setattr(mini, "SHEET", damage(tmp_path))  # type: ignore[operator]
    with pytest.raises(UsageError, match="damaged"):
        mini.load("test")


REAL = os.environ.get("ISMN_DATA_DIR")


@pytest.mark.skipif(not REAL, reason="ISMN_DATA_DIR does not name a copy of CIFAR-10")
def test_its_pixels_are_those_of_the_test_set_and_drawn_as_documented() -> None:
    test, images = cifar10.load("test", Path(str(REAL))), mini.load("test")
    assert torch.equal(images.pixels, test.pixels[images.ids])
    assert torch.equal(images.labels, test.labels[images.ids])
    left_out = json.loads(mini.INDEX.read_text())["left_out"]
    candidates = torch.tensor([i for i in range(10_000) if i not in left_out])
    assert test.take(candidates).select(1000, 2021).ids.sort().values.equal(images.ids)
