"""Images that the user's own code gives."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_images import noise, write_folder

from ismn_cli.core.datasets import find_dataset, named
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data import folder
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.loading import load_dataset

Write = Callable[..., str]
ARRAYS = """
import numpy as np

def data(split):
    rng = np.random.default_rng(len(split))
    return rng.integers(0, 256, (40, 3, 11, 9), dtype=np.uint8), np.arange(40) % 4
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module into the current folder; return the reference to its function."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def written(code: str, name: str = "mine.py:data") -> str:
        path = tmp_path / name.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return name

    return written


def load(name: str, split: str = "test", data_dir: Path | None = None, size: int | None = None) -> ImageSet:
    return load_dataset(DataChoice(name=name, image_size=size), split, data_dir)


def refused(name: str, split: str = "test") -> str:
    with pytest.raises(UsageError) as caught:
        load(name, split)
    assert caught.value.hint
    return f"{caught.value.message} {caught.value.hint}"


def test_arrays(write: Write) -> None:
    found = load(write(ARRAYS))
    whole = np.random.default_rng(4).integers(0, 256, (40, 3, 11, 9), dtype=np.uint8)
    assert np.array_equal(found.pixels.numpy(), whole[:, :, 1:10])  # the square in the middle
    assert found.labels.tolist() == [i % 4 for i in range(40)] and found.ids.tolist() == list(range(40))
    assert (found.name, found.classes, found.mirror) == ("mine.py:data@9", ("0", "1", "2", "3"), True)
    assert found.kind.shape == (4, 3, 9) and len(found.data_hash) == 64


@pytest.mark.parametrize(
    "form", ["x", "torch.from_numpy(x)", "x.astype('float32') / 255", "torch.from_numpy(x).double() / 255",
             "x.transpose(0, 2, 3, 1)", "x.tolist() and torch.from_numpy(x)"],
)  # fmt: skip
def test_every_form_of_the_same_images_is_the_same(write: Write, form: str) -> None:
    code = ARRAYS.replace("return rng", "x = rng").replace(", np.arange(40) % 4", "").replace(
        "dtype=np.uint8)", "dtype=np.uint8)\n    y = np.arange(40) % 4"
    )  # fmt: skip
    code = f"import torch\n{code}    return {form}, y\n"
    plain = load(write(ARRAYS, "plain.py:data"))
    assert load(write(code)).data_hash == plain.data_hash


def test_a_torch_dataset_is_read_as_a_folder_is(write: Write, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"train/cat": 5, "train/dog": 5, "test/cat": 3, "test/dog": 2})
    code = (
        "from torchvision.datasets import ImageFolder\n"
        "def data(split, data_dir):\n    return ImageFolder(data_dir / split) if split != 'validation' else None\n"
    )
    name = write(code)
    for size in (None, 16):
        one, other = load(name, "test", root, size), folder.load("test", root, size)
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)
        assert one.classes == other.classes == ("cat", "dog")


def test_grey_and_colour_squares_keep_their_size(write: Write) -> None:
    code = (
        "import sys, torch\nsys.path.append({here!r})\nfrom made_images import noise\n"
        "class data(torch.utils.data.Dataset):\n"
        "    classes = ('a', 'b')\n"
        "    def __init__(self, split): self.split = split\n"
        "    def __len__(self): return 6\n"
        "    def __getitem__(self, i): return noise(i, 20, 20, {channels}), torch.tensor(i % 2)\n"
    )
    here = str(Path(__file__).parent)
    grey = load(write(code.format(here=here, channels=1), "grey.py:data"))
    mixed = load(write(code.format(here=here, channels="3 - 2 * (i % 2)"), "mixed.py:data"))
    assert grey.kind.shape == (2, 1, 20) and not grey.mirror and mixed.kind.shape == (2, 3, 20)
    assert np.array_equal(mixed.pixels[0].numpy(), np.asarray(noise(0, 20, 20)).transpose(2, 0, 1))
    assert (mixed.pixels[1] == torch.tensor(np.asarray(noise(1, 20, 20, 1)))).all()


def test_without_a_validation_split_a_tenth_of_train_is_drawn(write: Write) -> None:
    code = ARRAYS.replace("    rng", "    if split == 'validation':\n        return None\n    rng")
    name = write(code)
    train, held, test = (load(name, split) for split in ("train", "validation", "test"))
    assert held.labels.bincount().tolist() == [1] * 4 and len(train) == 36 and len(test) == 40
    assert sorted(train.ids.tolist() + held.ids.tolist()) == list(range(40))
    whole = np.random.default_rng(5).integers(0, 256, (40, 3, 11, 9), dtype=np.uint8)[:, :, 1:10]
    assert np.array_equal(held.pixels.numpy(), whole[held.ids.numpy()])


def test_classes_are_the_same_in_every_split(write: Write) -> None:
    code = "import numpy as np\ndef data(split):\n    n = {'train': 6, 'validation': 5, 'test': 3}[split]\n"
    code += "    return np.zeros((24, 8, 8), 'uint8'), np.arange(24) % n\n"
    assert load(write(code)).kind.shape == (6, 1, 8)
    named_too = load(write(f"{code}data.classes = list('abcdefgh')\n"))
    assert named_too.classes == tuple("abcdefgh")


def test_changed_data_are_other_samples_and_changed_code_alone_is_not(write: Write) -> None:
    first = load(write(ARRAYS)).samples()
    assert load(write(f"# {ARRAYS}\n{ARRAYS}")).samples() == first
    assert load(write(ARRAYS.replace("0, 256", "0, 255"))).samples().data != first.data
    assert load(write(ARRAYS.replace("% 4", "// 10"))).samples().data != first.data


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def data():\n    pass", "got an unexpected keyword argument 'split'. It takes ()."),
        ("from os import system as data", "cannot be called with a split: missing a required argument: 'command'."),
        ("data = 3", "is a int, not a function"),
        ("def date(split):\n    pass", "Did you mean 'date'?"),
        ("def data(split):\n    raise KeyError(split)", "mine.py:data('test') fails: KeyError: 'test'"),
        ("def data(split):\n    raise SystemExit('no')", "fails: SystemExit: no"),
        ("import nothing_like_this", "Is 'nothing_like_this' installed here"),
        ("def data(split", "fails: SyntaxError"),
        ("def data(split):\n    return 3", "it gives a int, neither (pixels, labels) nor a torch Dataset"),
        ("def data(split):\n    return None", "has no split 'test'"),
        ("def data(split):\n    return []", "there are no images"),
        ("def data(split):\n    return [1, 2, 3]", "item 0: it is no pair of an image and a label"),
        ("def data(split):\n    return [([[0]], 'x')] * 3", "labels are of type"),
        ("def data(split):\n    return [([[0]], [1, 2])] * 3", "its label is not one number"),
        ("import numpy as n\ndef data(split):\n    return n.zeros((3, 8, 8)), [0, 1]", "3 images and 2 labels"),
        ("import numpy as n\ndef data(split):\n    return n.zeros((2, 8, 8)) - 1, [0, 1]", "values from -1.0 to -1.0"),
        ("import numpy as n\ndef data(split):\n    return n.full((2, 8, 8), n.nan), [0, 1]", "values from nan to nan"),
        ("import numpy as n\ndef data(split):\n    return n.zeros((2, 8, 8)), [0, -1]", "the least is -1"),
        ("import numpy as n\ndef data(split):\n    return n.zeros((2, 8, 8)), [0, 9]", "the highest label is 9"),
        ("import numpy as n\ndef data(split):\n    return n.zeros((2, 8, 8)), [0.5, 1]", "not whole numbers"),
        ("import numpy as n\ndef data(split):\n    return n.zeros((2, 2, 8, 8)), [0, 1]", "images have shape"),
        ("import numpy as n\ndef data(split):\n    return [[[1], [1, 2]]], [0, 1]", "no array can be made of it"),
        (ARRAYS + "data.classes = ['one', 'two']", "the highest label is 3 and 2 classes are declared"),
        ("from torchvision.datasets import CIFAR100 as data", "Write torchvision:CIFAR100"),
    ],
)
def test_what_is_wrong_with_it_is_told(write: Write, code: str, says: str) -> None:
    assert says in refused(write(code))


def test_names(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(ARRAYS, "folder/csv/mine.py:data")
    spelt = {load(f"{way}{name}").name for way in ("", "./", "folder/../")}
    assert spelt == {"./folder/csv/mine.py:data@9"}  # not "folder/...", which is the built-in's
    assert named(*spelt)[:3] == ("./folder/csv/mine.py:data", "", 9)
    assert load(named(*spelt).name, size=named(*spelt).size).name == spelt.pop()
    assert load(write(ARRAYS, "package/inner.py:data").replace("/", ".").replace(".py", "")).name.startswith("package.")
    assert "There is no file no.py" in refused("no.py:data")
    assert "does not say which data set" in refused(write(ARRAYS).partition(":")[0])
    assert "Did you mean 'torchvision:CIFAR100'?" in refused("CIFAR100")
    assert "Did you mean 'torchvision:SVHN'?" in refused("torchvision:svhn")
    assert "takes no attribute" in str(_with_attribute(name))


def _with_attribute(name: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_dataset(DataChoice(name=name, attribute="Male"), "test", None)
    return caught.value


def test_an_installed_plug_in(write: Write, tmp_path: Path) -> None:
    write(ARRAYS, "plugged.py:data")
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ismn.datasets]\nmy-digits = plugged:data\ncifar10 = plugged:other\n")
    sys.path.insert(0, str(tmp_path))
    importlib.metadata.MetadataPathFinder.invalidate_caches(importlib.metadata.MetadataPathFinder)
    assert load("my-digits").name == "my-digits@9"
    assert find_dataset("cifar10").load.startswith("ismn_cli.")  # what is built in stays
    assert "Did you mean 'my-digits'?" in refused("my-digit")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("cifar10", ("cifar10", "", None)),
        ("celeba/Smiling@128", ("celeba", "Smiling", 128)),
        ("folder/a:b@32", ("folder", "a:b", 32)),
        ("folder/x.py:y@8", ("folder", "x.py:y", 8)),
        ("torchvision:SVHN@32", ("torchvision:SVHN", "", 32)),
        ("a/b.py:c@64", ("a/b.py:c", "", 64)),
        ("a@b.py:c@64", ("a@b.py:c", "", 64)),
        ("weird@", ("weird@", "", None)),
        ("@8", ("@8", "", None)),
    ],
)
def test_a_name_is_read_back(dataset: str, expected: tuple[str, str, int | None]) -> None:
    assert named(dataset)[:3] == expected
