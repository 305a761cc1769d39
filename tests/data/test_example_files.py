"""Examples in files: what is read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_sets import SHAPE, THREAT, N, checked, images, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.data.example_checks import check_examples
from ismn_cli.data.example_files import ADVERSARIAL, Given, read_examples
from ismn_cli.data.image_set import ImageSet


def problem(place: Path, found: ImageSet, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        checked(place, found, **options)
    return caught.value


@pytest.mark.parametrize("name", [*ADVERSARIAL, "images", "x", "X_ADV"])
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_arrays_go_by_many_names(tmp_path: Path, name: str, form: str) -> None:
    found = images()
    content = {name: moved(found), "y": found.labels.numpy(), "ids": found.ids.numpy()}
    place = tmp_path / f"adv.{form}"
    np.savez(place, **content) if form == "npz" else save_file(content, place)
    given_ = read_examples(place)
    assert np.array_equal(given_.adversarial, moved(found)) and given_.clean is None
    assert given_.labels is not None and given_.ids is not None
    assert torch.equal(checked(place, found).adversarial, torch.from_numpy(moved(found)))


def test_images_beside_examples_are_the_clean_ones_and_the_rest_is_told(tmp_path: Path) -> None:
    found = images()
    np.savez(tmp_path / "a.npz", adv=moved(found), images=found.floats().numpy(), odd=np.zeros(2))
    given_ = read_examples(tmp_path / "a.npz")
    assert given_.clean is not None and given_.unread == ("odd",)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int64])
@pytest.mark.parametrize("last", [False, True])
def test_layouts_and_types_give_the_same_images(tmp_path: Path, dtype: Any, last: bool) -> None:
    found = images()
    whole = np.rint(moved(found, 8 / 255) * 255)
    array = whole.astype(dtype) if np.dtype(dtype).kind in "iu" else (whole / 255).astype(dtype)
    np.save(tmp_path / "a.npy", array.transpose(0, 2, 3, 1) if last else array)
    expected = torch.from_numpy(whole.astype(np.float32) / np.float32(255))
    assert torch.allclose(checked(tmp_path / "a.npy", found).adversarial, expected, atol=1e-7)


def test_a_shape_that_may_be_both_is_refused_and_told_apart_by_its_name(tmp_path: Path) -> None:
    found = images(shape=(3, 3, 3))
    np.savez(tmp_path / "a.npz", adv=moved(found))
    assert "may be nchw or nhwc; add an array layout='nchw'" in problem(tmp_path / "a.npz", found).message
    np.savez(tmp_path / "b.npz", adv=moved(found).transpose(0, 2, 3, 1), layout="nhwc")
    assert torch.equal(checked(tmp_path / "b.npz", found).adversarial, torch.from_numpy(moved(found)))
    np.savez(tmp_path / "c.npz", adv=moved(found), layout="hwcn")
    assert "layout is 'hwcn'" in problem(tmp_path / "c.npz", found).message


def test_grey_images_need_no_axis_for_their_channel(tmp_path: Path) -> None:
    found = images(shape=(1, 4, 4))
    np.savez(tmp_path / "a.npz", adv=moved(found)[:, 0])
    assert torch.equal(checked(tmp_path / "a.npz", found).adversarial, torch.from_numpy(moved(found)))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(N)), st.integers(1, N))
def test_ids_put_any_part_in_any_order_right(order: list[int], count: int) -> None:
    found, rows = images(), np.array(order[:count])
    given_ = Given(
        Path("a.npz"), "0" * 64, moved(found)[rows], labels=found.labels.numpy()[rows], ids=found.ids.numpy()[rows],
        clean=found.floats().numpy()[rows],
    )  # fmt: skip
    result = check_examples(given_, found, THREAT, limited=False, seed=0, drop=False)
    assert set(result.images.ids.tolist()) == set(found.ids[rows].tolist())
    place = {sample: i for i, sample in enumerate(found.ids.tolist())}
    expected = moved(found)[[place[sample] for sample in result.images.ids.tolist()]]
    assert torch.equal(result.adversarial, torch.from_numpy(expected))
    first = set(found.select(count, 0).ids.tolist())
    if set(result.images.ids.tolist()) == first:
        assert result.images.samples() == found.select(count, 0).samples()
    else:
        assert f"({count} of {N}, by id)" in result.images.samples().split


def test_a_limit_asks_for_its_own_images(tmp_path: Path) -> None:
    found = images()
    limited = found.select(6, 0)
    rows = [found.ids.tolist().index(sample) for sample in limited.ids.tolist()]
    np.savez(tmp_path / "a.npz", adv=moved(found)[rows[::-1]], ids=limited.ids.numpy()[::-1])
    assert checked(tmp_path / "a.npz", limited, limited=True).images.samples() == limited.samples()
    np.savez(tmp_path / "b.npz", adv=moved(found)[:6], ids=found.ids.numpy()[:6])
    message = problem(tmp_path / "b.npz", limited, limited=True).message
    assert "not among the images of made test within the --limit" in message and "missing" in message


def test_every_violation_is_named_at_once(tmp_path: Path) -> None:
    found = images()
    adversarial, labels = moved(found), found.labels.numpy().copy()
    adversarial[3] = np.clip(found.floats()[3].numpy() + 0.3, 0, 1)
    adversarial[5, 0, 0, 0], adversarial[7, 0, 0, 0] = np.nan, 1.05
    labels[9] = (labels[9] + 1) % 3
    clean = found.floats().numpy().copy()
    clean[2] = 1 - clean[2]
    np.savez(tmp_path / "a.npz", adv=adversarial, y=labels, clean=clean)
    message = problem(tmp_path / "a.npz", found).message
    ids = found.ids.tolist()
    for told in (
        "has 5 problems", f"labels differ from those of made on 1 of 12 samples, first on id {ids[9]}: 1, there 0",
        f"clean images differ from those of made on 1 of 12 samples, id {ids[2]}",
        f"leave the linf ball of 0.1: ids {ids[3]}", f"not finite: id {ids[5]}",
        f"outside [0, 1], by up to 0.05: id {ids[7]}",
    ):  # fmt: skip
        assert told in message


@pytest.mark.parametrize("norm", list(Norm))
def test_what_leaves_the_ball_is_counted_named_and_measured(tmp_path: Path, norm: Norm) -> None:
    found = images()
    flat = ImageSet(**{**vars(found), "pixels": torch.full_like(found.pixels, 100)})
    adversarial = flat.floats().numpy()
    adversarial[[1, 4, 8], 0, 0, 0] += np.array([0.1, 0.25, 0.1000001], np.float32)
    np.savez(tmp_path / "a.npz", adv=adversarial)
    error = problem(tmp_path / "a.npz", flat, threat=ThreatModel(norm=norm, eps=0.1))
    assert f"1 of 12 samples leave the {norm} ball of 0.1: id {int(flat.ids[4])}, by up to 0.15" in error.message
    assert "--drop-violations" in error.hint
    size = error.hint.split("--eps ")[1].split()[0]
    assert not checked(tmp_path / "a.npz", flat, threat=ThreatModel(norm=norm, eps=size)).strayed.any()
    result = checked(tmp_path / "a.npz", flat, threat=ThreatModel(norm=norm, eps=0.1), drop=True)
    assert result.strayed.nonzero().flatten().tolist() == [4] and "counted as unknown" in result.notes[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"adv": np.full((N, *SHAPE), 200.0)}, "floats up to 200, not in [0, 1]; divide them by 255"),
        ({"adv": np.full((N, *SHAPE), 300)}, "whole numbers from 300 to 300, not 0 to 255"),
        ({"adv": np.zeros((N, *SHAPE), complex)}, "of type complex128"),
        ({"adv": np.zeros((N, *SHAPE), bool)}, "of type bool"),
        ({"adv": np.full((N, *SHAPE), "a")}, "of type <U1"),
        ({"adv": np.zeros((N, 4, 4))}, "wanted is [N, 3, 4, 4] or [N, 4, 4, 3]"),
        ({"adv": np.zeros((N, 48))}, "examples have shape [12, 48]"),
        ({"adv": np.float32(0)}, "examples have shape []"),
        ({"adv": np.zeros((5, *SHAPE))}, "there are 5 examples for 12 images of made test; add ids"),
        ({"adv": np.zeros((0, *SHAPE))}, "there are 0 examples"),
        ({"adv": np.zeros((N, *SHAPE)), "ids": np.arange(float(N))}, "ids are float64 [12]"),
        ({"adv": np.zeros((N, *SHAPE)), "ids": np.arange(5)}, "ids are int64 [5]"),
        ({"adv": np.zeros((N, *SHAPE)), "ids": np.full(N, 7)}, "given more than once: id 7"),
        ({"adv": np.zeros((2, *SHAPE)), "ids": np.array([-1, 999])}, "not among the images of made test: ids -1, 999"),
        ({"adv": np.zeros((N, *SHAPE)), "y": np.zeros(5, int)}, "labels are int64 [5]"),
        ({"adv": np.zeros((N, *SHAPE)), "clean": np.zeros((5, *SHAPE))}, "there are 5 clean images for 12 examples"),
        ({"adv": np.full((5, *SHAPE), np.inf)}, "5 of 5 samples have pixels that are not finite (the first"),
    ],
)
def test_what_is_no_set_of_examples_is_refused(tmp_path: Path, content: dict[str, Any], told: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    assert told in problem(tmp_path / "a.npz", images()).message


def test_one_hot_labels_are_read(tmp_path: Path) -> None:
    found = images()
    np.savez(tmp_path / "a.npz", adv=moved(found), y=np.eye(3)[found.labels.numpy()])
    checked(tmp_path / "a.npz", found)
    np.savez(tmp_path / "b.npz", adv=moved(found), y=np.eye(3)[(found.labels.numpy() + 1) % 3])
    assert "labels differ from those of made on 12 of 12" in problem(tmp_path / "b.npz", found).message


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.npz", b"PK\x03\x04 cut", "cannot be read"),
        ("a.npz", b"<!doctype html><p>not found", "it is a web page"),
        ("a.npz", b"", "cannot be read"),
        ("a.safetensors", b"\xff" * 40, "cannot be read"),
        ("a.npy", b"nonsense", "cannot be read"),
        ("a.pt", b"x", "cannot be read from 'a.pt'"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_examples(tmp_path / name)
    assert told in caught.value.message


def test_pickles_are_never_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "a.npz", adv=np.array([Trap()], dtype=object))
    with pytest.raises(UsageError, match="Python objects"):
        read_examples(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


def test_files_without_examples_say_what_they_have(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weights=np.zeros(3))
    with pytest.raises(UsageError, match="but weights"):
        read_examples(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="no file or folder"):
        read_examples(tmp_path / "nope.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no PNG images"):
        read_examples(tmp_path / "empty")


def test_a_folder_is_read_in_the_order_of_its_names_or_its_manifest(tmp_path: Path) -> None:
    found = images()
    folder = tmp_path / "pngs"
    folder.mkdir()
    for i, image in enumerate(found.pixels.numpy()):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    assert np.array_equal(read_examples(folder).adversarial, found.pixels.numpy())
    lines = [f"{i:03d}.png,{int(found.ids[i])},{int(found.labels[i])}" for i in reversed(range(N))]
    (folder / "manifest.csv").write_text("\n".join(["File, ID ,label", *lines]))
    assert torch.equal(checked(folder, found).adversarial, found.floats())
    before = read_examples(folder).sha256
    (folder / "manifest.csv").write_text("\n".join(["file,id,label", *lines]))
    assert read_examples(folder).sha256 != before


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ("file,id\n../secret.png,1\n", "outside the folder"),
        ("file,id\n/etc/hostname,1\n", "outside the folder"),
        ("file,id\n0.png,one\n", "Column id"),
        ("file,id\n,1\n", "names no image in row 1"),
        ("name,id\n0.png,1\n", "names no image in row 1"),
        ("file\n", "names no image"),
        ("file\nmissing.png\n", "missing.png is missing"),
        ("file\n0.png\nother.png\n", "are not alike"),
        ("file\nphoto.jpg\n", "is no PNG"),
    ],
)
def test_manifests_of_strangers(tmp_path: Path, manifest: str, told: str) -> None:
    folder = tmp_path / "pngs"
    folder.mkdir()
    for place, size in (("pngs/0.png", 4), ("pngs/other.png", 5), ("pngs/photo.jpg", 4), ("secret.png", 4)):
        Image.new("RGB", (size, size)).save(tmp_path / place)
    (folder / "manifest.csv").write_text(manifest)
    with pytest.raises(UsageError) as caught:
        read_examples(folder)
    assert told in caught.value.message
