"""A folder for each class: its splits, drawn or given, its size and channels, and all that is wrong in one list."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_images import PAGE, save, write_folder

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import folder, pictures, sources
from ismn_cli.data.draws import split_by_hash, too_few
from ismn_cli.data.loading import load_dataset
from ismn_cli.data.problems import NoSplitError

SPLITS = ("train", "validation", "test")


def refused(root: Path, split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        folder.load(split, root)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_given_splits_are_taken_as_they_are(tmp_path: Path, validation: str) -> None:
    root = write_folder(
        tmp_path / "pets",
        {"train/cat": 4, "train/dog": 3, f"{validation}/cat": 1, f"{validation}/dog": 2, "test/cat": 2, "test/dog": 1},
    )
    train, held, test = (folder.load(split, root, 16) for split in SPLITS)
    assert [part.labels.tolist() for part in (train, held, test)] == [[0, 0, 0, 0, 1, 1, 1], [0, 1, 1], [0, 0, 1]]
    assert train.ids.tolist() == list(range(7))
    assert (train.name, train.classes, train.total, train.mirror) == ("folder/pets@16", ("cat", "dog"), 7, True)
    assert train.pixels.shape == (7, 3, 16, 16) and train.pixels.dtype == torch.uint8
    expected = pictures.decode(root / "train/dog/0001.png", 3, 16)
    assert np.array_equal(train.pixels[5].numpy(), expected)
    assert train.kind.dataset == "folder/pets@16" and train.kind.shape == (2, 3, 16)


def test_without_splits_a_tenth_of_each_class_is_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path / "d", {"a": 30, "b": 10})
    parts = [folder.load(split, root, 8) for split in SPLITS]
    assert [Counter(part.labels.tolist()) for part in parts] == [{0: 24, 1: 8}, {0: 3, 1: 1}, {0: 3, 1: 1}]
    assert sorted(i for part in parts for i in part.ids.tolist()) == list(range(40))
    assert caplog.text.count("is split by a hash of its files' names: 32 for train, 4 for validation, 4 for test") == 1
    names = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    for part in parts:
        for image, label, number in zip(part.pixels, part.labels, part.ids, strict=True):
            assert names[number].parts[0] == "ab"[label]
            assert np.array_equal(image.numpy(), pictures.decode(root / names[number], 3, 8))


def test_validation_alone_is_drawn_from_train(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"train/a": 10, "train/b": 20, "test/a": 3, "test/b": 3})
    train, held, test = (folder.load(split, root, 8) for split in SPLITS)
    assert (len(train), len(held), len(test)) == (27, 3, 6)
    assert not set(train.ids.tolist()) & set(held.ids.tolist())


def test_as_with_imagenet_validation_stands_for_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path / "d", {"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 4})
    assert [len(folder.load(split, root, 8)) for split in SPLITS] == [18, 2, 7]
    assert "has no test set: val stands for it" in caplog.text


def test_a_test_set_alone_is_for_evaluation(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"test/a": 3, "test/b": 4})
    assert len(folder.load("test", root, 8)) == 7
    with pytest.raises(NoSplitError, match="folder/d has no split 'train'"):
        folder.load("train", root, 8)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_a_drawn_split_is_disjoint_whole_stratified_and_a_matter_of_keys_alone(labels: list[int], random) -> None:
    keys = [f"k{i}" for i in range(len(labels))]
    drawn = split_by_hash(labels, keys)
    assert sorted(i for part in drawn.values() for i in part) == list(range(len(labels)))
    for label, count in Counter(labels).items():
        held = [sum(labels[i] == label for i in drawn[part]) for part in ("validation", "test")]
        assert held == [max(1, round(count / 10))] * 2 or count < 3
    assert too_few(labels, ("validation", "test")) == sorted(k for k, n in Counter(labels).items() if n < 3)
    order = list(range(len(labels)))
    random.shuffle(order)
    again = split_by_hash([labels[i] for i in order], [keys[i] for i in order])
    assert {part: {order[i] for i in chosen} for part, chosen in again.items()} == {
        part: set(chosen) for part, chosen in drawn.items()
    }


def test_a_limit_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"test/a": 6, "test/b": 9})
    small, large = (
        load_dataset(DataChoice(name="folder", limit=limit, image_size=8), "test", root, 3) for limit in (4, 10)
    )
    assert large.ids[:4].tolist() == small.ids.tolist()
    assert Counter(small.labels.tolist()) == {0: 2, 1: 2}
    assert small.total == 15 and small.data_hash == large.data_hash


SQUARE, OBLONG = (9, 9), (9, 8)


@pytest.mark.parametrize(
    ("shapes", "size"),
    [([SQUARE] * 4, 9), ([OBLONG] * 4, 128), ([*[SQUARE] * 3, (10, 10)], 128), ([(130, 130)] * 4, 128)],
)
def test_the_size_is_the_images_own_where_all_have_one(
    tmp_path: Path, shapes: list[tuple[int, int]], size: int
) -> None:
    for i, (width, height) in enumerate(shapes):
        save(tmp_path / "d" / "test" / "ab"[i % 2] / f"{i}.png", i, width, height)
    assert folder.load("test", tmp_path / "d").name == f"folder/d@{size}"


def test_grey_images_have_one_channel_and_no_mirror(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"test/a": 2, "test/b": 2}, channels=1)
    images = folder.load("test", root, 8)
    assert images.pixels.shape == (4, 1, 8, 8) and not images.mirror


def test_grey_among_colour_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"test/a": 3, "test/b": 3})
    save(root / "test/b/grey.png", 1, channels=1)
    assert "test/b/grey.png is grey (1 channel); the set is in colour" in refused(root)
    for i in range(20):
        save(root / f"test/a/grey{i}.png", i, channels=1)
    assert "6 of 27 images are in colour, the others grey" in refused(root)


def test_all_that_is_wrong_in_any_split_is_told_at_once_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train/a": 3, "train/b": 3, "train/c": 3, "val/a": 1, "test/a": 1, "test/b": 1}
    root = write_folder(tmp_path / "d", counts)
    (root / "val" / "b").mkdir()
    whole = save(root / "train/a/cut.jpg", 1, 60, 60).read_bytes()
    (root / "train/a/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "test/b/page.jpg").write_bytes(PAGE)
    (root / "train/c/link.png").symlink_to(tmp_path / "nowhere.png")
    monkeypatch.setattr(sources, "decoded", None)
    lines = refused(root, "test").splitlines()
    assert lines[0] == f"{root} has 6 problems:"
    assert lines[4].startswith("  train/a/cut.jpg is cut short (")
    assert lines[1:4] + lines[5:] == [
        "  val/b has no images",
        "  val/c has no images",
        "  test/c has no images",
        "  train/c/link.png is missing",
        "  test/b/page.jpg is a web page, not an image",
    ]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"test/a": 3, "test/b": 3})
    for i in range(30):
        (root / f"test/a/bad{i}.jpg").write_bytes(b"")
    lines = refused(root).splitlines()
    assert len(lines) == 22 and lines[0].endswith("has 30 problems:") and lines[-1] == "  and 10 more"


@pytest.mark.parametrize(
    ("counts", "says"),
    [({}, "no folders of classes"), ({"a": 5}, "only the class 'a'"), ({"a": 5, "b": 2}, "b has too few images")],
)
def test_too_little_to_make_a_set_of(tmp_path: Path, counts: dict[str, int], says: str) -> None:
    root = tmp_path / "d"
    root.mkdir()
    assert says in refused(write_folder(root, counts))


def test_places_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="folder needs --data-dir"):
        folder.load("train", None)
    with pytest.raises(UsageError, match=r"--data-dir names .*gone, which does not exist"):
        folder.load("train", tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        folder.load("train", tmp_path / "file")
    monkeypatch.setenv("ISMN_DATA_DIR", str(write_folder(tmp_path / "d", {"test/a": 2, "test/b": 2})))
    assert len(folder.load("test", None, 8)) == 4


def test_what_is_no_image_and_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a@b", {"test/a": 2, "test/b": 2, "test/.git": 2})
    (root / "test/a/notes.txt").write_text("x")
    (root / "test/a/._0001.png").write_bytes(b"x")
    images = folder.load("test", root, 8)
    assert len(images) == 4 and images.name == "folder/a-b@8"


def test_enlarging_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = write_folder(tmp_path / "d", {"test/a": 2, "test/b": 2})
    folder.load("test", root, 20)
    assert "have fewer than" not in caplog.text
    for _ in range(2):
        folder.load("test", root, 32)
    said = "4 of 4 images of folder/d have fewer than 32 pixels a side (the largest 20): they are enlarged."
    assert caplog.text.count(said) == 1
