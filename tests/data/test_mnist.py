"""MNIST on disk: splits, layouts, the download, and what damaged copies get."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import mnist, mnist_files, places
from ismn_cli.data.loading import load_dataset, not_at_hand


def pixels_of(part: str) -> np.ndarray:
    """Images whose first two bytes are their number."""
    pixels = np.zeros((mnist_files.COUNTS[part], 28, 28), np.uint8)
    pixels[:, 0, :2] = np.arange(len(pixels), dtype="<u2").view(np.uint8).reshape(-1, 2)
    return pixels


def labels_of(part: str) -> np.ndarray:
    return (np.arange(mnist_files.COUNTS[part]) * 7 % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return np.array([2048 + array.ndim, *array.shape], ">i4").tobytes() + array.tobytes()


def write(folder: Path, packed: bool = False, dot: str = "-") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for what, array in (("images", pixels_of(part)), ("labels", labels_of(part))):
            name = f"{part}-{what}{dot}idx{array.ndim}-ubyte"
            content = idx(array)
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content, 1) if packed else content)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mnist"))


@pytest.mark.parametrize(
    ("split", "part", "chosen"),
    [("train", "train", slice(5000, 60_000)), ("validation", "train", slice(5000)), ("test", "t10k", slice(10_000))],
)
def test_splits_hold_the_images_that_their_ids_say(whole: Path, split: str, part: str, chosen: slice) -> None:
    images = mnist.load(split, whole)
    pixels, labels = pixels_of(part)[chosen], labels_of(part)[chosen]
    assert images.pixels.dtype == torch.uint8 and images.pixels.shape == (len(pixels), 1, 28, 28)
    assert np.array_equal(images.pixels[:, 0].numpy(), pixels)
    assert np.array_equal(images.labels.numpy(), labels)
    assert images.ids.tolist() == list(range(mnist_files.COUNTS[part]))[chosen]
    assert (images.name, images.total, images.mirror) == ("mnist", len(pixels), False)
    assert images.classes == tuple("0123456789")
    assert images.data_hash == hashlib.sha256(labels.tobytes() + pixels.tobytes()).hexdigest()


@pytest.mark.parametrize(("place", "packed", "dot"), [("MNIST/raw", True, "-"), ("mnist", False, "."), ("", True, "-")])
def test_layouts(whole: Path, tmp_path: Path, place: str, packed: bool, dot: str) -> None:
    write(tmp_path / place, packed, dot)
    assert mnist.load("test", tmp_path).data_hash == mnist.load("test", whole).data_hash


def test_a_copy_that_is_not_the_original_is_warned_of_once_for_each_part(
    whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "validation", "test"):
        mnist.load(split, whole)
    assert caplog.text.count("is not the original") == 2
    assert "train-images-idx3-ubyte, train-labels-idx1-ubyte differ" in caplog.text


def test_the_original_is_not_warned_of(
    whole: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"t10k-images": pixels_of("t10k"), "t10k-labels": labels_of("t10k")}
    md5 = {name: hashlib.md5(idx(array)).hexdigest() for name, array in found.items()}
    monkeypatch.setattr(mnist_files, "_MD5", md5)
    mnist.load("test", whole)
    assert not caplog.records


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content[:-1], "holds 7,839,999 bytes of images"),
        (lambda content: content[:7], "does not begin as MNIST's images do"),
        (lambda content: b"<html>" + content, "does not begin"),
        (lambda content: b"", "does not begin"),
    ],
)
def test_damaged_files_are_named(whole: Path, tmp_path: Path, spoil, says: str) -> None:
    for path in whole.glob("t10k*"):
        (tmp_path / path.name).symlink_to(path)
    images = tmp_path / "t10k-images-idx3-ubyte"
    content = images.read_bytes()
    images.unlink()
    images.write_bytes(spoil(content))
    with pytest.raises(UsageError, match=says) as caught:
        mnist.load("test", tmp_path)
    assert str(images) in caught.value.message and "original" in caught.value.hint


def test_a_damaged_packed_file_a_missing_one_and_labels_out_of_range(tmp_path: Path) -> None:
    write(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + bytes([10]))
    with pytest.raises(UsageError, match="labels outside 0 to 9"):
        mnist.load("test", tmp_path)
    labels.unlink()
    with pytest.raises(UsageError, match="lacks t10k-labels-idx1-ubyte"):
        mnist.load("test", tmp_path)
    (tmp_path / f"{labels.name}.gz").write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(UsageError, match="cannot be read"):
        mnist.load("test", tmp_path)
    with pytest.raises(UsageError, match="no split of mnist called 'val'"):
        mnist.load("val", tmp_path)
    with pytest.raises(UsageError, match="mnist takes no image_size"):
        load_dataset(DataChoice(name="mnist", image_size=32), "test", tmp_path)


def test_without_network_it_says_where_to_put_the_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"could not be downloaded \(Name or service not known") as caught:
        mnist.load("test")
    assert str(places.home_data() / "MNIST" / "raw") in caught.value.hint
    assert not_at_hand("mnist", tmp_path) is not None


def test_what_is_not_here_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first mirror has nothing, the second everything."""
    served = write(tmp_path / "served", packed=True)
    names = [name for name, _ in MNIST.resources]
    md5 = {name: hashlib.md5((served / name).read_bytes()).hexdigest() for name in names}
    monkeypatch.setattr(MNIST, "resources", list(md5.items()))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_arguments: object) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(MNIST, "mirrors", [f"{address}/nothing/", f"{address}/served/"])
        assert len(mnist.load("test")) == 10_000
        server.shutdown()
    folder = places.home_data() / "MNIST" / "raw"
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert len(mnist.load("train")) == 55_000
    assert not_at_hand("mnist", None) is None
