"""Torchvision's sets by name, on small files of the kinds that torchvision reads."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from made_images import noise, write_folder
from scipy.io import savemat

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.core.torchvision_sets import SETS
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.loading import load_dataset, not_at_hand
from ismn_cli.data.torchvision_set import rows_of


def load(name: str, split: str, data_dir: Path, size: int | None = None) -> ImageSet:
    return load_dataset(DataChoice(name=f"torchvision:{name}", image_size=size), split, data_dir)


@pytest.fixture
def fashion(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """FashionMNIST in idx files: 200 images to train on, whose first 50 are the test images too."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    labels = (np.arange(200) % 10).astype(np.uint8)
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 200), ("t10k", 50)):
        head = struct.pack(">4i", 0x803, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + pixels[:count].tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels[:count].tobytes())
    return tmp_path / "data", pixels, labels


def test_idx_files(fashion: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, pixels, labels = fashion
    test = load("FashionMNIST", "test", root)
    assert np.array_equal(test.pixels[:, 0].numpy(), pixels[:50]) and test.labels.tolist() == labels[:50].tolist()
    assert (test.name, test.classes[9], test.mirror) == ("torchvision:FashionMNIST@28", "Ankle boot", False)
    assert test.kind.shape == (10, 1, 28)


def test_a_tenth_of_train_validates(fashion: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, pixels, _ = fashion
    train, held = (load("FashionMNIST", split, root) for split in ("train", "validation"))
    assert held.labels.bincount().tolist() == [2] * 10 and len(train) == 180
    assert sorted(train.ids.tolist() + held.ids.tolist()) == list(range(200))
    for part in (train, held):
        assert np.array_equal(part.pixels[:, 0].numpy(), pixels[part.ids.numpy()])
    again = load("FashionMNIST", "validation", root)
    assert torch.equal(again.ids, held.ids) and again.data_hash == held.data_hash


def test_matlab_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    lists = {}
    for split in ("train", "test"):
        place = tmp_path / f"{split}_32x32.mat"
        savemat(place, {"X": pixels, "y": np.arange(1, 31)[:, None] % 10 + 1})
        lists[split] = ["nowhere", place.name, hashlib.md5(place.read_bytes()).hexdigest()]
    assert not_at_hand("torchvision:SVHN", tmp_path) is not None  # torchvision knows the sums of the real files
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    assert not_at_hand("torchvision:SVHN", tmp_path) is None
    test = load("SVHN", "test", tmp_path)
    assert np.array_equal(test.pixels.numpy(), pixels.transpose(3, 2, 0, 1))
    assert test.labels.tolist() == [(i + 1) % 10 + 1 if (i + 1) % 10 < 9 else 0 for i in range(30)]
    assert test.classes == tuple("0123456789")


def test_files_of_images_without_splits(tmp_path: Path) -> None:
    names = ("AnnualCrop", "Forest", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential", "River",
             "SeaLake", "Water")  # fmt: skip
    write_folder(tmp_path / "eurosat" / "2750", dict.fromkeys(names, 10))
    parts = [load("EuroSAT", split, tmp_path, 16) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert sorted(i for part in parts for i in part.ids.tolist()) == list(range(100))
    assert parts[0].name == "torchvision:EuroSAT@16" and len(parts[0].classes) == 10


def test_a_hostile_pickle_is_not_read(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    place = tmp_path / "cifar-100-python"
    place.mkdir()
    for name in ("train", "test", "meta"):
        (place / name).write_bytes(pickle.dumps(Bad()))
    with pytest.raises(UsageError, match="CIFAR100 is not on this machine"):
        load("CIFAR100", "test", tmp_path)
    old = tmp_path / "KMNIST" / "processed"  # of a torchvision of long ago
    old.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save(Bad(), old / name)
    with pytest.raises(UsageError):
        load("KMNIST", "test", tmp_path)
    assert not (tmp_path / "executed").exists()


def test_without_files_and_network(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load("CIFAR100", "test", tmp_path)
    assert "could not be downloaded" in caught.value.message and "torchvision.datasets.CIFAR100" in caught.value.hint


def test_files_that_are_cut_short(fashion: tuple[Path, np.ndarray, np.ndarray]) -> None:
    place = fashion[0] / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(UsageError):
        load("FashionMNIST", "test", fashion[0])


def test_every_set_is_torchvisions_and_its_splits_do_not_meet() -> None:
    for name, known in SETS.items():
        assert callable(getattr(torchvision.datasets, name))
        rows = {split: rows_of(known, split) for split in ("train", "validation", "test")}
        asked = {(tuple(sorted(found.asked.items())), found.part) for found in rows.values()}
        assert len(asked) == 3, name
        drawn = [found for found in rows.values() if found.part]
        assert all(found.asked == known.train and found.drawn == drawn[0].drawn for found in drawn), name


def test_it_is_the_same_as_the_data_sets_of_ismn(tmp_path: Path) -> None:
    """MNIST by both ways, on the same files."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.stack([np.asarray(noise(i, 28, 28, 1)) for i in range(100)])
    for kind, head, content in (
        ("images-idx3", struct.pack(">4i", 0x803, 100, 28, 28), pixels.tobytes()),
        ("labels-idx1", struct.pack(">2i", 0x801, 100), bytes(i % 10 for i in range(100))),
    ):
        for part in ("train", "t10k"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + content)
            with gzip.open(raw / f"{part}-{kind}-ubyte.gz", "wb") as stream:
                stream.write(head + content)
    assert np.array_equal(load("MNIST", "test", tmp_path).pixels[:, 0].numpy(), pixels)
