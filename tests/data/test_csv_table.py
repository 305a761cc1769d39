"""A table of paths and labels: the same images as in folders, and all that is wrong with it in one list."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_images import PAGE, save, write_folder

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import csv_table, decoded, folder
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.loading import load_dataset
from ismn_cli.data.problems import NoSplitError

SPLITS = ("train", "validation", "test")


def table(place: Path, rows: list[tuple[str, ...]], head: tuple[str, ...] = ("path", "label"), **form: str) -> Path:
    with place.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, **form).writerows([head, *rows])
    return place


def refused(place: Path, split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        csv_table.load(split, place)
    assert caught.value.hint
    return caught.value.message


def same(one: ImageSet, other: ImageSet) -> bool:
    """Whether two sets have the same images, in whatever order."""
    pairs = [sorted(zip(map(bytes, s.pixels.numpy()), s.labels.tolist(), strict=True)) for s in (one, other)]
    return pairs[0] == pairs[1] and one.classes == other.classes


def rows_of(root: Path, split: str | None = None) -> list[tuple[str, ...]]:
    files = sorted((root / (split or "")).rglob("*.png"))
    return [(p.relative_to(root).as_posix(), p.parent.name, *([split] if split else [])) for p in files]


def test_the_same_images_as_a_folder_and_as_a_table(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 20, "dog": 12, "no, \"really\"": 11})
    place = table(root / "pets.csv", rows_of(root))
    for split in SPLITS:
        one, other = folder.load(split, root, 16), csv_table.load(split, place, 16)
        assert same(one, other) and one.total == other.total
        assert torch.equal(one.ids, other.ids) and one.data_hash == other.data_hash  # the rows are in the same order
    assert other.name == "csv/pets@16" and other.kind.shape == (3, 3, 16)


def test_the_same_splits_as_a_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "p", {"train/a": 4, "train/b": 3, "val/a": 2, "val/b": 1, "test/a": 1, "test/b": 2})
    rows = [row for split in ("test", "val", "train") for row in rows_of(root, split)]
    for place in (table(root / "x.csv", rows, ("path", "label", "split")), root):
        assert all(same(folder.load(s, root), csv_table.load(s, place)) for s in SPLITS)
    assert csv_table.load("train", root).ids.tolist() == list(range(6, 13))  # rows of the table


def test_one_decoded_copy_serves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "d", {"a": 12, "b": 12})
    before = folder.load("test", root, 8)
    monkeypatch.setattr(decoded, "_written", None)
    assert same(before, csv_table.load("test", table(root / "d.csv", rows_of(root)), 8))


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 10, 9, 0, 1, 3, 4, 5, 6, 7, 8]])
def test_whole_numbers_number_the_classes(tmp_path: Path, labels: list[int]) -> None:
    rows = [(save(tmp_path / f"{i}-{j}.png", i).name, str(label)) for i, label in enumerate(labels) for j in range(3)]
    found = csv_table.load("train", table(tmp_path / "t.csv", rows))
    assert sorted(found.labels.tolist()) == sorted(labels) and found.classes == tuple(map(str, range(len(labels))))


def test_names_are_in_order_and_stay_as_they_are(tmp_path: Path) -> None:
    names = ["<script>", "a|b", "ümlaut 🐟", "3", "-", "x\ny", "=cmd()", "a,b"]
    rows = [(save(tmp_path / f"{i}-{j}.png", i).name, name) for i, name in enumerate(names) for j in range(3)]
    found = csv_table.load("train", table(tmp_path / "hostile.csv", rows))
    assert found.classes == tuple(sorted(names)) and sorted(set(found.labels.tolist())) == list(range(8))


def test_a_table_of_a_spreadsheet(tmp_path: Path) -> None:
    rows = [f"  {save(tmp_path / f'{i}.png', i).name} ,{i % 2}" for i in range(8)]
    text = "\r\n".join(["﻿Path, LABEL ", *rows, "", ",", ""])
    (tmp_path / "t.CSV").write_text(text, encoding="utf-8")
    assert len(csv_table.load("train", tmp_path)) == 4


def test_columns_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(save(tmp_path / f"{i}.png", i).name, "ab"[i % 2], "x") for i in range(8)]
    csv_table.load("train", table(tmp_path / "t.csv", rows, ("path", "label", "patient")))
    assert "columns that are not read: patient" in caplog.text


def test_a_validation_set_alone_stands_for_the_test_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(save(tmp_path / f"{i}.png", i).name, "ab"[i % 2], "train" if i < 8 else "val") for i in range(12)]
    found = csv_table.load("test", table(tmp_path / "t.csv", rows, ("path", "label", "split")))
    assert found.ids.tolist() == [8, 9, 10, 11] and "its images to validate stand for it" in caplog.text


def test_a_test_set_alone(tmp_path: Path) -> None:
    rows = [(save(tmp_path / f"{i}.png", i).name, "ab"[i % 2], "test") for i in range(4)]
    place = table(tmp_path / "t.csv", rows, ("path", "label", "split"))
    assert len(csv_table.load("test", place)) == 4
    with pytest.raises(NoSplitError, match="no split 'train'"):
        csv_table.load("train", place)


def test_all_that_is_wrong_is_in_one_list_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "decoded", None)
    for i in range(4):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "page.png").write_bytes(PAGE)
    (tmp_path / "folder.png").mkdir()
    rows = [
        ("0.png", "a", "train"), ("1.png", "b", "train"), ("gone.png", "a", "train"), ("./x/../0.png", "b", "test"),
        ("2.png", "", "test"), ("", "a", "test"), ("3.png", "a", "exam"), ("3.png", "a"), ("page.png", "b", "test"),
        ("notes.eps", "a", "test"), ("n\0l.png", "a", "test"), ("folder.png", "a", "test"),
    ]  # fmt: skip
    message = refused(table(tmp_path / "t.csv", rows, ("path", "label", "split")))
    for part in (
        "gone.png is missing",
        "t.csv: line 5: 'x/../0.png' is in line 2 already",
        "t.csv: line 6: no label",
        "t.csv: line 7: no path",
        "t.csv: line 8: split 'exam'; known are train, validation, test",
        "t.csv: line 9: 2 values for 3 columns",
        "page.png is a web page, not an image",
        "t.csv: line 11: 'notes.eps' is not of a kind that is read",
        "t.csv: line 12: a path cannot have a NUL in it",
        "folder.png cannot be read (Is a directory)",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "there is no column 'path', but nothing"),
        (b"path,label\n", "there are no lines but the head"),
        (b"path;label\na.png;1\n", "there is no column 'path', but path;label; did you mean 'path;label'?"),
        (b"paht,label\na.png,1\n", "there is no column 'path', but paht, label; did you mean 'paht'?"),
        (b"path,label,label\na.png,1,1\n", "the column 'label' is there twice"),
        (b"path,label\n\xff\xfe,1\n", "is no comma-separated text in UTF-8"),
        (b'path,label\n"a.png,1\n', "is no comma-separated text in UTF-8"),
        (b"path,label\n" + b"a" * 200_000 + b".png,1\n", "is no comma-separated text in UTF-8"),
        (PAGE, "is a web page, not a table"),
        (b"path,label\na.png,1\nb.png,2\n", "labels are out of range: 1 to 2 in 2 lines"),
        (b"path,label\na.png,-1\nb.png,0\n", "labels are out of range: -1 to 0"),
        (b"path,label\na.png,1\nb.png,99999999999999999999999\n", "labels are out of range"),
        (b"path,label\na.png,1\nb.png,1\nc.png,2\nd.png,2\n", "train has no images of class '0'"),
        (b"path,label\na.png,x\nb.png,x\n", "there is only the class 'x'"),
        (b"path,label,split\na.png,x,train\nb.png,y,train\nc.png,y,test\n", "test has only images of class 'y'"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert says in refused(tmp_path / "t.csv")


def test_which_table_has_to_be_said(tmp_path: Path) -> None:
    assert "has 0 .csv files" in refused(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.csv").touch()
    assert "has 2 .csv files" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "c.csv")


def test_a_changed_label_or_image_is_another_set(tmp_path: Path) -> None:
    rows = [(save(tmp_path / f"{i}.png", i).name, "ab"[i % 2]) for i in range(12)]
    place = table(tmp_path / "t.csv", rows)
    keys = [csv_table.load("train", place).samples()]
    trained = keys[0].ids, [int(i) for i in csv_table.load("train", place).ids]
    row = trained[1][0]
    place = table(tmp_path / "t.csv", [(p, "ba"["ab".index(n)] if i == row else n) for i, (p, n) in enumerate(rows)])
    keys.append(csv_table.load("train", place).samples())
    save(tmp_path / f"{row}.png", 99)
    keys.append(csv_table.load("train", table(tmp_path / "t.csv", rows)).samples())
    assert len({key.data for key in keys}) == 3


def test_a_limit_is_the_folders(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"a": 30, "b": 30})
    place = table(tmp_path / "d" / "d.csv", rows_of(root))
    one, other = (
        load_dataset(DataChoice(name=name, limit=3, image_size=8), "test", at, 3)
        for name, at in (("folder", root), ("csv", place))
    )
    assert same(one, other)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["train", "test", "Val", "exam", ""])), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_table_says_is_refused_in_words(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    place = table(tmp_path / "t.csv", [(f"{p}.png", *rest) for p, *rest in rows], ("path", "label", "split"))
    assert refused(place).startswith((str(tmp_path), "csv"))
