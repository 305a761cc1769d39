"""CIFAR-10 on disk: splits, layouts, where it is found, and what damaged copies get."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_cifar import labels_of, pixels_of, write_bin, write_py
from torchvision.datasets import CIFAR10

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import cifar10, cifar10_files, places
from ismn_cli.data.cifar10_files import BIN, PY
from ismn_cli.data.loading import dataset_at_hand, load_dataset

TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


@pytest.mark.parametrize(
    ("split", "batches", "start", "stop"),
    [
        ("train", TRAIN, 5_000, 50_000),
        ("validation", TRAIN, 0, 5_000),
        ("test", ["test_batch"], 0, 10_000),
    ],
)
def test_splits_hold_the_images_that_their_ids_say(
    whole_copy: Path, split: str, batches: list[str], start: int, stop: int
) -> None:
    images = cifar10.load(split, whole_copy / "bin")
    pixels = np.concatenate([pixels_of(b) for b in batches])[start:stop]
    labels = np.concatenate([labels_of(b) for b in batches])[start:stop]
    assert images.ids.tolist() == list(range(start, stop))
    assert images.pixels.shape == (stop - start, 3, 32, 32)
    assert images.pixels.dtype == torch.uint8
    assert np.array_equal(images.pixels.flatten(1).numpy(), pixels)
    assert np.array_equal(images.labels.numpy(), labels)
    assert (images.name, images.split, images.total) == ("cifar10", split, stop - start)
    assert images.data_hash == hashlib.sha256(labels.tobytes() + pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_both_layouts_give_the_same(whole_copy: Path, split: str) -> None:
    ours, theirs = (cifar10.load(split, whole_copy / layout) for layout in ("bin", "py"))
    assert ours.data_hash == theirs.data_hash
    assert torch.equal(ours.pixels, theirs.pixels)
    assert torch.equal(ours.labels, theirs.labels)


def test_a_batches_folder_can_be_named_itself(whole_copy: Path) -> None:
    hashes = {
        cifar10.load("test", whole_copy / "bin" / BIN.folder).data_hash,
        cifar10.load("test", whole_copy / "py" / PY.folder).data_hash,
        cifar10.load("test", whole_copy / "bin").data_hash,
    }
    assert len(hashes) == 1


def test_the_bin_layout_is_preferred(whole_copy: Path, tmp_path: Path) -> None:
    for layout in ("bin", "py"):
        (folder,) = (whole_copy / layout).iterdir()
        (tmp_path / folder.name).symlink_to(folder)
    copy = cifar10_files.find_copy(("test_batch",), tmp_path)
    assert copy is not None
    assert copy.layout is BIN


def test_option_then_variable_then_home(
    whole_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    places = [tmp_path / name for name in ("option", "variable", "home/data")]
    for place in places:
        place.mkdir(parents=True)
        (place / BIN.folder).symlink_to(whole_copy / "bin" / BIN.folder)
    monkeypatch.setenv("ISMN_DATA_DIR", str(places[1]))
    found = []
    for place in places:
        for _ in range(2):
            copy = cifar10_files.find_copy(("test_batch",), places[0])
        assert copy is not None
        found.append(copy.path.parent)
        (place / BIN.folder).unlink()
    assert found == places
    first, second = (record.getMessage() for record in caplog.records)
    assert first == f"There is no CIFAR-10 in {places[0]}; using {places[1] / BIN.folder}."
    assert f"{places[0]} or {places[1]}; using {places[2]}" in second
    assert not dataset_at_hand(places[0])


def test_home_is_below_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISMN_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.home_data() == tmp_path / ".ismn" / "data"


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_folder_that_does_not_exist_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    nowhere = tmp_path / "nowhere"
    if by_variable:
        monkeypatch.setenv("ISMN_DATA_DIR", str(nowhere))
    with pytest.raises(UsageError, match="nowhere") as caught:
        cifar10.load("test", None if by_variable else nowhere)
    assert ("ISMN_DATA_DIR" if by_variable else "--data-dir") in caught.value.message
    assert not dataset_at_hand(None if by_variable else nowhere)


def test_missing_files_are_named(whole_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / BIN.folder
    folder.mkdir()
    for name in ("data_batch_1.bin", "data_batch_3.bin", "test_batch.bin"):
        (folder / name).symlink_to(whole_copy / "bin" / BIN.folder / name)
    with pytest.raises(
        UsageError, match=r"lacks data_batch_2.bin, data_batch_4.bin, data_batch_5.bin"
    ) as caught:
        cifar10.load("train", tmp_path)
    assert str(folder) in caught.value.message
    assert len(cifar10.load("test", tmp_path)) == 10_000
    assert not dataset_at_hand(tmp_path)
    assert dataset_at_hand(whole_copy / "bin")


@pytest.mark.parametrize("size", [0, 100, 30_730_000 - 1, 30_730_000 + 1])
def test_a_bin_file_of_another_size_is_named_with_both_sizes(tmp_path: Path, size: int) -> None:
    path = write_bin(tmp_path, ("test_batch",)) / "test_batch.bin"
    with path.open("r+b") as stream:
        stream.truncate(size)
    with pytest.raises(UsageError) as caught:
        cifar10.load("test", tmp_path)
    assert str(path) in caught.value.message
    assert f"{size:,} bytes" in caught.value.message
    assert "30,730,000" in caught.value.message


@pytest.mark.parametrize("size", [0, 100, 30_000_000, 30_750_000])
def test_a_truncated_py_file_is_named(tmp_path: Path, size: int) -> None:
    path = write_py(tmp_path, ("test_batch",)) / "test_batch"
    with path.open("r+b") as stream:
        stream.truncate(size)
    with pytest.raises(UsageError) as caught:
        cifar10.load("test", tmp_path)
    assert str(path) in caught.value.message
    assert f"{size:,} bytes, expected are about 31,035,000" in caught.value.message
    assert "\n" not in caught.value.message


def test_labels_over_nine_are_refused(tmp_path: Path) -> None:
    path = write_bin(tmp_path, ("test_batch",)) / "test_batch.bin"
    with path.open("r+b") as stream:
        stream.seek(3073 * 9_999)
        stream.write(b"\x0a")
    with pytest.raises(UsageError, match=r"test_batch.bin holds labels outside 0 to 9"):
        cifar10.load("test", tmp_path)


def test_an_unknown_split_is_named_with_the_nearest(whole_copy: Path) -> None:
    with pytest.raises(UsageError, match="no split of cifar10 called 'tests'") as caught:
        cifar10.load("tests", whole_copy / "bin")
    assert "'test'" in caught.value.hint


def test_another_copy_is_used_with_one_warning_that_names_its_files(
    whole_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("test", "validation", "test", "train"):
        cifar10.load(split, whole_copy / "bin")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for batch in [*TRAIN, "test_batch"]:
        assert f"{batch}.bin" in record.getMessage()


def test_only_changed_files_are_named(
    whole_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = whole_copy / "py" / PY.folder
    original = hashlib.md5((folder / "test_batch").read_bytes()).hexdigest()
    monkeypatch.setitem(PY.md5, "test_batch", original)
    cifar10.load("test", whole_copy / "py")
    assert not caplog.records
    cifar10.load("validation", whole_copy / "py")
    (record,) = caplog.records
    assert "data_batch_1 differ" in record.getMessage()
    assert "test_batch" not in record.getMessage()


def test_checksums_are_torchvisions() -> None:
    assert dict(CIFAR10.train_list + CIFAR10.test_list) == PY.md5
    assert sorted(BIN.md5) == sorted(PY.md5)
    assert len(set(BIN.md5.values()) | set(PY.md5.values())) == 12


def test_loading_by_name_with_a_limit(whole_copy: Path) -> None:
    whole = load_dataset(DataChoice(name="cifar10"), "test", whole_copy / "bin")
    part = load_dataset(DataChoice(name="cifar10", limit=50), "test", whole_copy / "bin", 4)
    assert len(whole) == 10_000
    assert torch.equal(part.ids, whole.select(50, 4).ids)
    assert part.labels.bincount().tolist() == [5] * 10
    assert part.samples().limited


def test_an_unknown_data_set_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="cifar11") as caught:
        load_dataset(DataChoice(name="cifar11"), "test", None)
    assert "cifar10" in caught.value.hint


def test_a_file_that_cannot_be_opened_is_named(
    whole_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole_copy / "py" / PY.folder, tmp_path / PY.folder, symlinks=True)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        cifar10.load("test", tmp_path)
