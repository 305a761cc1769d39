"""CelebA: layouts, the draw, labels, and all that is wrong in one list before anything is decoded."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_images import ATTRIBUTES, PAGE, save, values_of, write_celeba

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import celeba, pictures, sources
from ismn_cli.data.celeba_files import official_partition
from ismn_cli.data.loading import load_dataset

SPLITS = ("train", "validation", "test")
PARTITION = [0] * 60 + [1] * 3 + [2] * 12


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_celeba(tmp_path_factory.mktemp("original") / "celeba", PARTITION)


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil, at DIR/celeba."""
    return Path(shutil.copytree(original, tmp_path / "DIR" / "celeba"))


def refused(root: Path, attribute: str = "Smiling") -> list[str]:
    """Return the lines of the error that loading any split of a copy gives, without the copy's path."""
    with pytest.raises(UsageError) as caught:
        celeba.load("test", root, attribute, 8)
    assert "ismn data check celeba" in caught.value.hint
    return caught.value.message.replace(str(root), "DIR").splitlines()


def test_images_and_labels_are_those_that_the_ids_say(original: Path) -> None:
    for attribute in ("Male", "Smiling"):
        for split in SPLITS:
            images = celeba.load(split, original, attribute, 16)
            assert (images.name, images.split) == (f"celeba/{attribute}@16", split)
            assert images.classes == (f"not {attribute}", attribute) and images.mirror
            assert images.kind.shape == (2, 3, 16)
            for number, label, image in zip(images.ids.tolist(), images.labels.tolist(), images.pixels, strict=True):
                assert label == (values_of(number)[ATTRIBUTES.index(attribute)] == " 1")
                file = original / "img_align_celeba" / f"{number:06d}.jpg"
                assert np.array_equal(image.numpy(), pictures.decode(file, 3, 16))


def test_each_split_is_of_its_official_partition(original: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, held, test = (set(celeba.load(split, original, "Male", 8).ids.tolist()) for split in SPLITS)
    assert (len(train), len(held), len(test)) == (54, 6, 12)
    assert train | held == set(range(1, 61)) and not train & held
    assert test == set(range(64, 76))
    assert caplog.text.count("fewer than the 19,999 training and 2,000 test images of the protocol: 60 and 12 are") == 1


def test_where_there_are_enough_the_protocols_counts_are_drawn(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert (celeba.TRAIN, celeba.VALIDATION, celeba.TEST) == (19_999, 2_000, 2_000)
    for name, count in (("TRAIN", 50), ("VALIDATION", 5), ("TEST", 8)):
        monkeypatch.setattr(celeba, name, count)
    ids = {split: celeba.load(split, copy, "Male", 8).ids.tolist() for split in SPLITS}
    assert {split: len(found) for split, found in ids.items()} == {"train": 45, "validation": 5, "test": 8}
    assert sorted(celeba.draw(range(1, 61), "train", 50)[-5:]) == ids["validation"]
    assert "fewer" not in caplog.text


@given(st.sets(st.integers(1, 10**6), max_size=60), st.integers(0, 60), st.randoms(use_true_random=False))
def test_the_draw_depends_on_the_ids_alone_and_a_smaller_is_the_beginning_of_a_larger(
    ids: set[int], count: int, random
) -> None:
    listed = sorted(ids)
    whole = celeba.draw(listed, "train", len(ids))
    assert sorted(whole) == listed
    random.shuffle(listed)
    assert celeba.draw(listed, "train", count) == whole[:count]


def test_the_draw_is_the_same_for_ever() -> None:
    """Written down once: another hash, seed or order would make every stored result one of other images."""
    assert celeba.draw(range(1, 5_001), "train", 5) == DRAWN_TO_TRAIN
    assert celeba.draw(range(182_638, 187_638), "test", 5) == DRAWN_TO_TEST


DRAWN_TO_TRAIN = [4497, 3764, 4705, 4858, 361]
DRAWN_TO_TEST = [184240, 185108, 186070, 184069, 187167]


def test_the_cache_serves_every_attribute(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    celeba.load("test", original, "Male", 8)
    monkeypatch.setattr(pictures, "decode", None)
    assert len(celeba.load("test", original, "Smiling", 8)) == 12


def test_a_limit_by_the_catalogue(original: Path) -> None:
    choice = DataChoice(name="celeba", limit=4, attribute="Male", image_size=8)
    assert load_dataset(choice, "test", original).labels.bincount().tolist() == [2, 2]


def test_layouts_that_people_have(original: Path, tmp_path: Path) -> None:
    expected = celeba.load("test", original, "Male", 8)
    nested = Path(shutil.copytree(original, tmp_path / "kaggle"))
    (nested / "img_align_celeba").rename(nested / "x")
    (nested / "img_align_celeba").mkdir()
    (nested / "x").rename(nested / "img_align_celeba" / "img_align_celeba")
    heads = {"list_attr_celeba": "image_id,Bald,Male,Smiling", "list_eval_partition": "image_id,partition"}
    for name, head in heads.items():
        rows = [",".join(row.split()) for row in (nested / f"{name}.txt").read_text().splitlines()]
        body = rows[2:] if "attr" in name else rows
        (nested / f"{name}.csv").write_text("\ufeff" + "\r\n".join([head, *body]))
        (nested / f"{name}.txt").unlink()
    drive = tmp_path / "drive" / "CelebA"
    for place in ("Img/img_align_celeba", "Anno/list_attr_celeba.txt", "Eval/list_eval_partition.txt"):
        (drive / place).parent.mkdir(parents=True)
        (drive / place).symlink_to(original / Path(place).name)
    for root in (original.parent, nested, drive.parent):
        found = celeba.load("test", root, "Male", 8)
        assert found.data_hash == expected.data_hash and found.ids.equal(expected.ids), root


def write_hq(root: Path, faces: list[int]) -> Path:
    """Write CelebA-HQ's layout: image i was made from the face of that number in CelebA."""
    for i in range(len(faces)):
        save(root / "CelebA-HQ-img" / f"{i}.jpg", i, 256, 256)
    rows = [f"{i}.jpg  " + " ".join(values_of(i)) for i in range(len(faces))]
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join([str(len(faces)), " ".join(ATTRIBUTES), *rows]))
    rows = [f"{i}     {face - 1}   {face:06d}.jpg" for i, face in enumerate(faces)]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx     orig_idx   orig_file", *rows]))
    return root


FACES = [5, 182_638, 162_771, 202_599, 162_770, 9, 182_637, 190_000, 195_001, 195_000, *range(101, 131)]


def test_celeba_hq_has_the_partition_of_its_faces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = write_hq(tmp_path / "CelebAMask-HQ", FACES)
    train, held, test = (celeba.load(split, tmp_path, "Male", 256) for split in SPLITS)
    of_train = {i for i, face in enumerate(FACES) if official_partition(f"{face}.jpg") == 0}
    assert set(train.ids.tolist()) | set(held.ids.tolist()) == of_train == {0, 4, 5, *range(10, 40)}
    assert test.ids.tolist() == [1, 3, 7, 8, 9]
    assert "have fewer than" not in caplog.text
    # a partition file of the user's own comes before the official numbers
    rows = [f"{face:06d}.jpg {2 if face < 105 else 0}" for face in FACES]
    (root / "list_eval_partition.txt").write_text("\n".join(rows))
    assert set(celeba.load("test", tmp_path, "Male", 256).ids.tolist()) == {0, 5, 10, 11, 12, 13}


def test_celeba_hq_without_its_mapping_is_split_by_hash_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_hq(tmp_path / "hq", list(range(1, 41)))
    (root / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    sizes = [len(celeba.load(split, root, "Male", 8)) for split in SPLITS]
    assert sizes == [32, 4, 4]
    assert "comes without CelebA-HQ-to-CelebA-mapping.txt" in caplog.text


def test_where_both_are_the_larger_images_serve_the_larger_size(copy: Path) -> None:
    write_hq(copy, FACES)
    (copy / "list_eval_partition.txt").write_text(
        "\n".join(f"{i:06d}.jpg {2 * (i % 2)}" for i in sorted({*range(1, 76), *FACES}))
    )
    assert celeba.find_copy(copy, 128).kind == "img_align_celeba"
    assert celeba.find_copy(copy, 256).kind == "CelebA-HQ-img"


def test_up_sampling_is_said(original: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    celeba.load("test", original, "Male", 21)
    assert "fewer than 21 pixels a side (the largest 20): they are up-sampled; CelebA-HQ's would not be." in caplog.text


def test_everything_that_is_wrong_is_told_at_once_before_decoding(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "decoded", None)
    images = copy / "img_align_celeba"
    (images / "000003.jpg").unlink()
    whole = save(copy / "big.jpg", 1, 60, 60).read_bytes()
    (images / "000005.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "000070.jpg").write_bytes(PAGE)
    save(images / "000071.jpg", 1, channels=1)
    save(images / "999999.jpg", 1)
    attributes = (copy / "list_attr_celeba.txt").read_text().replace("75\n", "80\n", 1)
    (copy / "list_attr_celeba.txt").write_text(attributes.replace("000007.jpg -1 ", "000007.jpg "))
    partition = (copy / "list_eval_partition.txt").read_text()
    (copy / "list_eval_partition.txt").write_text(partition.replace("000009.jpg 0\n", ""))
    lines = refused(copy)
    assert lines[0] == "DIR has 9 problems:"
    assert sorted(line.strip().split(" (")[0] for line in lines[1:]) == sorted([
        "list_attr_celeba.txt says 80 images and lists 75",
        "list_attr_celeba.txt: the row of 000007.jpg has 3 entries, not 4",
        "list_eval_partition lacks 1 of 74 images: 000009.jpg",
        "list_eval_partition has 1 images that the attributes lack",
        "img_align_celeba/000003.jpg is missing",
        "img_align_celeba has 2 files that list_attr_celeba.txt does not name: 000007.jpg, 999999.jpg",
        "img_align_celeba/000005.jpg is cut short",
        "img_align_celeba/000070.jpg is a web page, not an image",
        "img_align_celeba/000071.jpg is grey",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("Bald", "split test: all 12 images lack the attribute Bald"),
        ("Smilling", "there is no attribute 'Smilling' in list_attr_celeba.txt; did you mean 'Smiling'?"),
        ("Q", "known are Bald, Male, Smiling"),
    ],
)
def test_attributes_that_tell_nothing(original: Path, attribute: str, says: str) -> None:
    assert any(says in line for line in refused(original, attribute))


def test_values_that_are_none_are_told(copy: Path) -> None:
    text = (copy / "list_attr_celeba.txt").read_text()
    (copy / "list_attr_celeba.txt").write_text(text.replace("000007.jpg -1 -1 -1", "000007.jpg -1 -1 yes"))
    assert refused(copy) == ["DIR: list_attr_celeba.txt: 000007.jpg has yes, not 1 or -1."]


@pytest.mark.parametrize("what", ["page", "cut", "whole", "none"])
def test_a_zip_that_is_none_and_one_that_is_not_unpacked(copy: Path, what: str) -> None:
    shutil.rmtree(copy / "img_align_celeba")
    archive = copy / "img_align_celeba.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("img_align_celeba/000001.jpg", b"x" * 1000)
    if what == "page":
        archive.write_bytes(PAGE)
    elif what == "cut":
        archive.write_bytes(archive.read_bytes()[:500])
    elif what == "none":
        archive.unlink()
    says = {
        "page": "img_align_celeba.zip is a web page, not a zip",
        "cut": "img_align_celeba.zip is cut short, or no zip",
        "whole": "img_align_celeba.zip is not unpacked: unzip it in DIR",
        "none": "the folder img_align_celeba is missing",
    }
    (line,) = refused(copy)
    assert says[what] in line


def test_lists_that_are_missing_or_pages_are_named_together(copy: Path) -> None:
    (copy / "list_attr_celeba.txt").write_bytes(PAGE)
    (copy / "list_eval_partition.txt").unlink()
    assert [line.strip() for line in refused(copy)[1:]] == [
        "list_eval_partition.txt is missing",
        "list_attr_celeba.txt is a web page, not a list",
    ]


def test_no_celeba_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is none in") as caught:
        celeba.load("train", tmp_path)
    assert "img_align_celeba" in caught.value.hint
    with pytest.raises(UsageError, match="no split of celeba called 'val'"):
        celeba.load("val", tmp_path)


def test_an_empty_images_folder_is_one_problem(copy: Path) -> None:
    for path in (copy / "img_align_celeba").iterdir():
        path.unlink()
    assert refused(copy) == ["DIR: img_align_celeba has none of the 75 images that list_attr_celeba.txt names."]


def test_a_change_of_the_lists_is_noticed(copy: Path) -> None:
    before = celeba.load("test", copy, "Male", 8).labels.tolist()
    path = copy / "list_attr_celeba.txt"
    rows = [row.split() for row in path.read_text().splitlines()]
    flipped = [[name, bald, str(-int(male)), smiling] for name, bald, male, smiling in rows[2:]]
    path.write_text("\n".join(" ".join(row) for row in [*rows[:2], *flipped]))
    assert celeba.load("test", copy, "Male", 8).labels.tolist() == [1 - label for label in before]
