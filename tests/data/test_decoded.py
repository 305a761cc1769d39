"""Files decoded once: what Pillow alone gives, kept, checked, and made again where it cannot be trusted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_worker import dies_elsewhere
from made_images import PAGE, noise, save
from PIL import Image

from ismn_cli.core.errors import UsageError
from ismn_cli.core.storage import home_folder
from ismn_cli.data import decoded as cache
from ismn_cli.data import pictures, workers


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / "in" / f"{i}.png", i) for i in range(5)]


def kept() -> Path:
    (found,) = (home_folder() / "cache").glob("*.pixels")
    return found


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that every decoded path is added to."""
    paths: list[str] = []
    original = pictures.decode

    def decode(path: str, *rest: int) -> Any:
        paths.append(path)
        return original(path, *rest)

    monkeypatch.setattr(pictures, "decode", decode)
    return paths


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 20, 32])
def test_a_file_becomes_its_middle_square_as_pillow_resizes_it(tmp_path: Path, channels: int, size: int) -> None:
    path = save(tmp_path / "x.png", 7, 20, 24, channels)
    expected = Image.open(path).crop((0, 2, 20, 22)).resize((size, size), Image.Resampling.BILINEAR)
    found = pictures.decode(path, channels, size)
    assert found.shape == (channels, size, size)
    assert np.array_equal(found.transpose(1, 2, 0).squeeze(), np.asarray(expected))


def test_images_are_kept_and_read_back_without_decoding(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = counted(monkeypatch)
    first, problems = cache.decoded(files, 3, 8)
    assert first is not None and not problems
    assert paths == [str(path) for path in files]
    again, _ = cache.decoded(files, 3, 8)
    assert again is not None and len(paths) == 5
    direct = np.stack([pictures.decode(path, 3, 8) for path in files])
    assert np.array_equal(again.pixels.numpy(), direct)
    assert first.sha256 == again.sha256 == hashlib.sha256(direct.tobytes()).hexdigest()


def test_each_choice_of_files_sizes_and_channels_is_kept_apart(files: list[Path]) -> None:
    for chosen, channels, size in ((files, 3, 8), (files, 3, 9), (files, 1, 8), (files[:4], 3, 8), (files[::-1], 3, 8)):
        found, _ = cache.decoded(chosen, channels, size)
        assert found is not None and found.pixels.shape == (len(chosen), channels, size, size)
    assert len(list((home_folder() / "cache").glob("*.pixels"))) == 5


def test_a_changed_file_is_decoded_again(files: list[Path]) -> None:
    before, _ = cache.decoded(files, 3, 8)
    save(files[2], 99)
    after, _ = cache.decoded(files, 3, 8)
    assert before is not None and after is not None
    same = (before.pixels == after.pixels).flatten(1).all(1).tolist()
    assert same == [True, True, False, True, True]


@pytest.mark.parametrize("damage", ["short", "long", "changed", "no json", "bad json", "other json"])
def test_what_cannot_be_trusted_is_made_again(
    files: list[Path], damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = cache.decoded(files, 3, 8)
    assert first is not None
    expected, place = first.pixels.clone(), kept()
    content, beside = place.read_bytes(), place.with_suffix(".json")
    if damage == "short":
        place.write_bytes(content[:-1])
    elif damage == "long":
        place.write_bytes(content + b"x")
    elif damage == "changed":
        place.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "no json":
        beside.unlink()
    else:
        beside.write_text("{" if damage == "bad json" else json.dumps({"shape": [1], "sample": "x"}))
    paths = counted(monkeypatch)
    again, _ = cache.decoded(files, 3, 8)
    assert again is not None and torch.equal(again.pixels, expected)
    assert len(paths) == 5
    # where the description is gone altogether it is as after a kill, and nothing to warn of
    assert ("are damaged" in caplog.text) == (damage not in ("no json", "bad json"))


def test_the_map_may_be_written_to_and_the_file_stays_as_it_was(files: list[Path]) -> None:
    found, _ = cache.decoded(files, 3, 8)
    assert found is not None
    before = kept().read_bytes()
    found.pixels.zero_()
    again, _ = cache.decoded(files, 3, 8)
    assert again is not None and kept().read_bytes() == before and again.pixels.any()


def test_without_memory_for_copies_the_map_is_for_reading(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    original = np.memmap

    def memmap(place: Path, dtype: Any, mode: str, shape: tuple[int, ...]) -> Any:
        if mode == "c":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return original(place, dtype, mode, shape=shape)

    monkeypatch.setattr(np, "memmap", memmap)
    found, _ = cache.decoded(files, 3, 8)
    assert found is not None and found.pixels[torch.tensor([0, 3])].float().mean() > 0


def test_all_files_that_cannot_be_decoded_are_told_and_nothing_is_kept(files: list[Path]) -> None:
    files[1].write_bytes(PAGE)
    files[3].unlink()
    files[4].write_bytes(b"")
    found, problems = cache.decoded(files, 3, 8)
    assert found is None
    assert problems == [
        (str(files[1]), "is a web page, not an image"),
        (str(files[3]), "is missing"),
        (str(files[4]), "is empty"),
    ]
    assert list((home_folder() / "cache").iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_decoded(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = counted(monkeypatch)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UsageError, match=r"0\.0 GB that the decoded images take") as caught:
        cache.decoded(files, 3, 8)
    assert "ISMN_HOME" in caught.value.hint
    assert not paths


def test_remains_of_a_kill_are_cleared_and_work_in_progress_is_not(files: list[Path]) -> None:
    folder = home_folder() / "cache"
    folder.mkdir(parents=True)
    for name, age in ((".old.pixels.0.tmp", 7200), (".new.pixels.0.tmp", 60)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    cache.decoded(files, 3, 8)
    assert [path.name for path in folder.glob(".*")] == [".new.pixels.0.tmp"]


def test_workers_give_what_this_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real processes, more chunks than are in flight at once, and a file that cannot be decoded."""
    monkeypatch.setattr(workers, "CHUNK", 2)
    monkeypatch.setattr(workers, "AHEAD", 2)
    monkeypatch.setattr(workers, "_cores", lambda: 2)
    paths = [str(save(tmp_path / f"{i}.png", i)) for i in range(25)]
    Path(paths[5]).write_bytes(b"x")
    decode = partial(pictures.decode_all, 3, 8)
    apart = list(workers.worked(decode, paths, few=0))
    assert apart == list(workers.worked(decode, paths, few=25))
    assert sum(chunk.files for chunk in apart) == 25 and [len(chunk.problems) for chunk in apart].index(1) == 2


def test_what_killed_workers_leave_this_process_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_cores", lambda: 2)
    items = [str(os.getpid())] * 100
    assert [item for chunk in workers.worked(dies_elsewhere, items, few=0) for item in chunk] == items
    assert "worker processes ended" in caplog.text


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, time
        from ismn_cli.data import workers

        def slow(items):
            os.write(1, f"{os.getpid()}\\n".encode())  # in one piece, whoever else writes
            time.sleep(0.05)

        if __name__ == "__main__":
            workers._cores = lambda: 2
            list(workers.worked(slow, ["x"] * 100_000, few=0))
        """)
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        parent.kill()
        # the end of what they write is when the last of them has ended
        parent.communicate(timeout=30)


def test_two_processes_at_once_agree(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process decodes the same files while the first is at it."""
    original, inner = cache._fill, []

    def fill(*arguments: Any) -> str:
        if not inner:
            inner.append(None)
            inner[0] = cache.decoded(files, 3, 8)[0]
        return original(*arguments)

    monkeypatch.setattr(cache, "_fill", fill)
    outer, _ = cache.decoded(files, 3, 8)
    assert outer is not None and torch.equal(outer.pixels, inner[0].pixels)
    assert len(list((home_folder() / "cache").iterdir())) == 2


def test_headers_are_read_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, problems = cache.survey(files)
    assert first.sizes == {(20, 24): 5} and first.grey == () and not problems
    monkeypatch.setattr(pictures, "examine", None)
    assert cache.survey(files) == (first, [])


def jpeg(path: Path) -> bytes:
    noise(3, 64, 64).save(path, quality=90)
    return path.read_bytes()


@pytest.mark.parametrize("full", [False, True])
def test_each_way_to_spoil_a_file_is_found(tmp_path: Path, full: bool) -> None:
    whole = jpeg(tmp_path / "whole.jpg")
    noise(1, 40, 40).save(tmp_path / "whole.png")
    png = (tmp_path / "whole.png").read_bytes()
    spoilt = {
        "cut.jpg": (whole[: len(whole) // 2], "is cut short"),
        "last.jpg": (whole[:-30], "is cut short"),
        "cut.png": (png[: len(png) // 2], "is cut short"),
        "head.jpg": (whole[:100], "cannot be decoded|is no image|is cut short"),
        "page.jpg": (b"\xef\xbb\xbf\n " + PAGE, "is a web page"),
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"hello", "is no image"),
        "sixteen.png": (b"", "not of 8 bits"),
    }
    for name, (content, _) in spoilt.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "sixteen.png")
    for name, (_, says) in spoilt.items():
        found = pictures.examine(tmp_path / name, full)
        assert isinstance(found, str), name
        assert any(part in found for part in says.split("|")), (name, found)
    assert pictures.examine(tmp_path / "gone.jpg", full) == "is missing"


def test_what_is_whole_passes(tmp_path: Path) -> None:
    whole = jpeg(tmp_path / "x.jpg")
    assert pictures.examine(tmp_path / "x.jpg") == (3, 64, 64)
    # phones append films to their photographs: the end marker is far from the end, and the image is whole
    (tmp_path / "x.jpg").write_bytes(whole + b"\0" * 5000)
    assert pictures.examine(tmp_path / "x.jpg") == (3, 64, 64)
    for kind in ("P", "RGBA", "CMYK", "L", "LA", "1"):
        suffix = "jpg" if kind == "CMYK" else "png"
        noise(0, 5, 6).convert(kind).save(tmp_path / f"{kind}.{suffix}")
        channels = 1 if kind in ("L", "LA", "1") else 3
        assert pictures.examine(tmp_path / f"{kind}.{suffix}", full=True) == (channels, 5, 6)
        assert pictures.decode(tmp_path / f"{kind}.{suffix}", channels, 4).shape == (channels, 4, 4)


def test_only_a_full_look_finds_what_is_wrong_in_the_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", 1, 64, 64)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    assert pictures.examine(path) == (3, 64, 64)
    assert "cannot be decoded" in str(pictures.examine(path, full=True))
