"""`ismn data check` from the shell: what there is, or all that is wrong, and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ismn_cli.cli import console
from ismn_cli.cli.app import exit_code
from ismn_cli.data import pictures, places

sys.path.append(str(Path(__file__).parents[1] / "data"))

from made_images import PAGE, save, write_celeba, write_folder

PARTITION = [0] * 40 + [1] * 2 + [2] * 9


class Ended:
    """What a command line came to; white space is made one."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.lines = code, out.splitlines()
        self.out, self.err = (" ".join(text.split()) for text in (out, err))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    """Run `ismn data check` in this process, in a home of its own."""
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ISMN_DATA_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(places, "_told", set())

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        console.people.cache_clear()
        return Ended(exit_code(["data", "check", *map(str, arguments)]), *capsys.readouterr())

    yield run
    console.people.cache_clear()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_celeba(tmp_path / "faces" / "celeba", PARTITION)


def test_a_sound_celeba_is_summed_up(check, faces: Path) -> None:
    ended = check("celeba", "--data-dir", faces.parent, "--attribute", "Male", "--image-size", 64)
    assert ended.code == 0
    # 51 images, of which every second is male; of the test set 45 to 51 the odd numbers are one more
    assert re.search(r"test 9 (44\.4|55\.6)% not Male, (44\.4|55\.6)% Male 55\.6%", ended.out)
    assert "train 36 " in ended.out and "validation 4 " in ended.out
    assert "51 files" in ended.out and "native sizes: 20 x 24 (51)" in ended.out
    assert "fewer than the 19,999 training and 2,000 test images" in ended.out
    assert ended.lines[-1] == "celeba/Male: all is well."


def test_every_file_that_is_wrong_is_named_with_where_to_have_it_from(check, faces: Path) -> None:
    images = faces / "img_align_celeba"
    (images / "000001.jpg").unlink()
    (images / "000041.jpg").write_bytes(PAGE)  # of the official validation partition, which nothing is drawn from
    whole = (images / "000003.jpg").read_bytes()
    (images / "000003.jpg").write_bytes(whole[:-100])
    ended = check("celeba", "--data-dir", faces)
    assert ended.code == 1
    assert ended.lines[-4] == "celeba/Smiling: 3 problems"
    assert ended.lines[-3] == "  img_align_celeba/000001.jpg is missing"
    assert ended.lines[-2].startswith("  img_align_celeba/000003.jpg is cut short")
    assert ended.lines[-1] == "  img_align_celeba/000041.jpg is a web page, not an image"
    for name in ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"):
        assert f"{name}: https://drive.google.com/uc?id=" in ended.err
    assert "CelebAMask-HQ" in ended.err


@pytest.mark.parametrize("missing", ["img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"])
def test_what_a_copy_cannot_do_without(check, faces: Path, missing: str) -> None:
    (faces / missing).rename(faces / "elsewhere")
    ended = check("celeba", "--data-dir", faces)
    assert ended.code == 1 and f"{missing} is missing" in ended.out
    assert "drive.google.com" in ended.err


def test_only_full_decodes(check, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "own", {"test/a": 3, "test/b": 3})
    path = save(root / "test/a/x.png", 1, 64, 64)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
    quick, full = check("folder", "--data-dir", root), check("folder", "--data-dir", root, "--full")
    assert (quick.code, full.code) == (0, 1)
    assert "--full decodes them" in quick.out and "test/a/x.png cannot be decoded" in full.out


def test_a_quick_check_keeps_nothing_and_decodes_nothing(
    check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "decode", None)
    root = write_folder(tmp_path / "own", {"a": 10, "b": 20})
    ended = check("folder", "--data-dir", root, "--image-size", 16)
    assert ended.code == 0
    assert "train 24 33.3% a, 66.7% b 66.7%" in ended.out
    assert not (tmp_path / "home" / "cache").exists()


def test_arrays(check, tmp_path: Path) -> None:
    images, labels = np.zeros((60, 8, 8), np.uint8), np.arange(60) % 6
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    ended = check("npz", "--data-dir", tmp_path / "a.npz")
    assert ended.code == 0 and "6 classes, from 16.7% (0) to 16.7% (0)" in ended.out
    np.savez(tmp_path / "a.npz", images=images, labels=labels[:-1])
    ended = check("npz", "--data-dir", tmp_path / "a.npz")
    assert ended.code == 1 and "all: 60 images and 59 labels" in ended.out
    assert ended.out.count("59 labels") == 1
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    (tmp_path / "a.npz").unlink()
    assert check("npz", "--data-dir", tmp_path).code == 0


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_nothing_is_downloaded(check, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_cli.data.download._ask_server", None)
    ended = check(name)
    assert ended.code == 1
    assert "It is not on this machine." in ended.out and "ismn train" in ended.err


def test_the_images_that_come_with_ismn(check) -> None:
    ended = check("cifar10-mini")
    assert ended.code == 0 and "1000 x 3 x 32 x 32" in ended.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["celebb"], "Did you mean 'celeba'?"),
        (["mnist", "--attribute", "Male"], "mnist takes no attribute"),
        (["folder"], "folder needs --data-dir"),
        (["folder", "--data-dir", "/no/such/folder"], "which does not exist"),
        (["celeba", "--image-size", "4"], "greater than or equal to 8"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage(check, arguments: list[str], says: str) -> None:
    ended = check(*arguments)
    assert ended.code == 2 and says in ended.err and not ended.out
