"""Arrays in .npz files: forms of images and labels, splits, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_images import PAGE
from PIL import Image

from ismn_cli.core.errors import UsageError
from ismn_cli.data import npz, npz_files
from ismn_cli.data.npz_files import ArrayError, Place, channels_first, labels_of, pixels_of
from ismn_cli.data.problems import NoSplitError

SPLITS = ("train", "validation", "test")
BYTES = np.random.default_rng(0).integers(0, 256, (30, 10, 10, 3), dtype=np.uint8)
CLASS = np.arange(30) % 3


def save(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def refused(place: Path, split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        npz.load(split, place)
    assert "np.savez" in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "targets")])
def test_one_pair_is_divided_in_three(tmp_path: Path, names: tuple[str, str]) -> None:
    path = save(tmp_path / "own.npz", **dict(zip(names, (BYTES, CLASS), strict=True)))
    parts = [npz.load(split, path) for split in SPLITS]
    assert [part.labels.bincount().tolist() for part in parts] == [[8] * 3, [1] * 3, [1] * 3]
    assert sorted(i for part in parts for i in part.ids.tolist()) == list(range(30))
    for part in parts:
        assert (part.name, part.classes, part.mirror) == ("npz/own@10", ("0", "1", "2"), True)
        assert np.array_equal(part.pixels.numpy(), BYTES[part.ids].transpose(0, 3, 1, 2))
        assert np.array_equal(part.labels.numpy(), CLASS[part.ids])


@pytest.mark.parametrize("form", ["{0}_{1}", "{1}_{0}"])
@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels")])
def test_keras_and_medmnist_name_their_splits(tmp_path: Path, form: str, names: tuple[str, str]) -> None:
    arrays = {}
    for split, rows in (("train", slice(20)), ("test", slice(20, None))):
        arrays |= {form.format(names[0], split): BYTES[rows], form.format(names[1], split): CLASS[rows, None]}
    train, held, test = (npz.load(split, save(tmp_path / "k.npz", **arrays)) for split in SPLITS)
    assert np.array_equal(test.pixels.numpy(), BYTES[20:].transpose(0, 3, 1, 2))
    assert sorted([*train.ids.tolist(), *held.ids.tolist()]) == list(range(20)) and len(held) == 3


def test_a_folder_of_splits_and_names_of_classes(tmp_path: Path) -> None:
    for name, rows in (("train", slice(15)), ("val", slice(15, 20)), ("test", slice(20, None))):
        save(tmp_path / "d" / f"{name}.npz", images=BYTES[rows, ..., 0], labels=CLASS[rows], classes=["a", "b", "c"])
    parts = [npz.load(split, tmp_path / "d") for split in SPLITS]
    assert [len(part) for part in parts] == [15, 5, 10]
    assert parts[0].classes == ("a", "b", "c") and not parts[0].mirror
    assert parts[0].kind == ("npz/d@10", (3, 1, 10))


def test_a_test_set_alone_is_for_evaluation(tmp_path: Path) -> None:
    save(tmp_path / "test.npz", images=BYTES, labels=CLASS)
    assert len(npz.load("test", tmp_path)) == 30
    with pytest.raises(NoSplitError, match="has no split 'train'"):
        npz.load("train", tmp_path)


@given(
    st.sampled_from([(7, 9), (9, 7), (8, 8)]),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
    st.sampled_from([np.uint8, np.int64, np.float32, np.float64]),
    st.sampled_from([None, 8, 12]),
)
def test_every_form_of_the_same_images_gives_the_same_pixels(
    shape: tuple[int, int], channels: int, first: bool, kind: Any, size: int | None
) -> None:
    height, width = shape
    side = min(shape)
    original = np.random.default_rng(1).integers(0, 256, (2, height, width, channels or 1), dtype=np.uint8)
    array = original.transpose(0, 3, 1, 2) if first else original
    array = original[..., 0] if channels == 0 else array
    given_as = (array / kind(255)).astype(kind) if np.dtype(kind).kind == "f" else array.astype(kind)
    found = pixels_of(given_as, size or side)
    top, left = (height - side) // 2, (width - side) // 2
    for image, pixels in zip(original, found, strict=True):
        square = Image.fromarray(image.squeeze()).crop((left, top, left + side, top + side))
        if size not in (None, side):
            square = square.resize((size, size), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels.transpose(1, 2, 0).squeeze(), np.asarray(square))


@given(st.data(), st.sampled_from(["C", "F"]), st.booleans(), st.sampled_from(["u1", "<f4", ">i2"]))
def test_an_array_in_parts_is_the_array(data: st.DataObject, order: Any, packed: bool, kind: str) -> None:
    n = data.draw(st.integers(1, 20))
    array = np.random.default_rng(n).integers(0, 256, (n, 5, 4, 3)).astype(kind, order=order)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True)), np.int64)
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, x=array)
    file.seek(0)
    found = np.full((len(rows), 5, 4, 3), 255.5)
    with pytest.MonkeyPatch.context() as patch, np.load(file) as archive:
        patch.setattr(npz_files, "PART", data.draw(st.integers(1, 2000)))
        for positions, part in Place(archive, "x").parts(rows):
            found[positions] = part
    assert np.array_equal(found, array[rows])


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((2, 4, 4, 4), np.uint8), "images have shape (2, 4, 4, 4)"),
        (np.zeros((2, 16), np.uint8), "images have shape (2, 16)"),
        (np.zeros((2, 0, 0, 3), np.uint8), "images have shape (2, 0, 0, 3)"),
        (np.full((2, 4, 4), 255.0), "values from 255.0 to 255.0, not 0 to 1; divide them by 255"),
        (np.full((2, 4, 4), np.nan), "values from nan to nan"),
        (np.full((2, 4, 4), -0.1), "values from -0.1 to -0.1"),
        (np.full((2, 4, 4), 256), "values from 256 to 256, not 0 to 255"),
        (np.full((2, 4, 4), True), "of type bool"),
        (np.full((2, 4, 4), "x"), "of type <U1"),
    ],
)
def test_images_that_are_none(images: np.ndarray, says: str) -> None:
    with pytest.raises(ArrayError) as caught:
        pixels_of(images, channels_first(images).shape[-1])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.eye(3), "argmax(1) of one-hot labels"),
        (np.array([0.0, 1.0]), "of type float64, not whole numbers"),
        (np.array([0, -1]), "out of range: the least is -1"),
    ],
)
def test_labels_that_are_none(labels: np.ndarray, says: str) -> None:
    with pytest.raises(ArrayError) as caught:
        labels_of(labels)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": BYTES, "labels": CLASS[:-1]}, "all: 30 images and 29 labels"),
        ({"images": BYTES, "labels": CLASS * 0}, "all has only images of class 0"),
        ({"images": BYTES, "labels": CLASS * 2}, "all has no images of class 1"),
        ({"images": BYTES, "labels": CLASS * 10**9}, "labels are out of range: the highest is 2000000000 of 30 images"),
        ({"images": BYTES, "labels": CLASS, "classes": ["a", "b"]}, "the highest is 2 for 2 classes"),
        ({"images": BYTES[:4], "labels": CLASS[:4]}, "too few images of class 1 to be split"),
        ({"images": BYTES[:0], "labels": CLASS[:0]}, "all has no images"),
        ({"images": BYTES}, "has no images and labels, but images"),
        ({"pictures": BYTES, "labels": CLASS}, "has no images and labels, but pictures, labels"),
        ({"images": BYTES.astype(object), "labels": CLASS}, "images"),
        ({"images": BYTES, "labels": CLASS.astype(object)}, "labels cannot be read: it holds Python objects"),
        ({"x_train": BYTES, "y_train": CLASS, "x_test": BYTES[..., 0], "y_test": CLASS}, "the splits differ in shape"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, arrays: Mapping[str, Any], says: str) -> None:
    message = refused(save(tmp_path / "a.npz", **arrays))
    assert says in message and str(tmp_path / "a.npz") in message


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x_train=BYTES, y_train=CLASS[:-1], x_test=BYTES[:, :, 0], y_test=CLASS - 1)
    lines = refused(path, "test").splitlines()
    assert lines[0].endswith("has 2 problems:")
    assert "train: 30 images and 29 labels" in lines[1] and "test: labels are out of range" in lines[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PAGE, "is a web page, not an archive"),
        (b"", "cannot be read as .npz"),
        (b"PK\x03\x04junk", "cannot be read as .npz"),
    ],
)
def test_files_that_are_no_archives(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert says in refused(tmp_path / "a.npz")


def test_places_that_are_none(tmp_path: Path) -> None:
    assert "has 0 .npz files" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "gone.npz")
    assert "needs --data-dir" in refused(None)  # type: ignore[arg-type]
    np.save(tmp_path / "a.npy", BYTES)
    assert "holds one array (.npy)" in refused(tmp_path / "a.npy")
    truncated = save(tmp_path / "cut.npz", images=BYTES, labels=CLASS)
    truncated.write_bytes(truncated.read_bytes()[:-300])
    assert "cannot be read" in refused(truncated)


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    class Greedy:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was here",)

    refused(save(tmp_path / "a.npz", images=BYTES, labels=np.array([Greedy()] * 30, dtype=object)))
    assert not (tmp_path / "was here").exists()
