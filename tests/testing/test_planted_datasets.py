"""Every rule of a data set catches the fault that is planted for it, and no other rule does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from ismn_cli.core.conformance import RULES
from ismn_cli.core.findings import Verdict
from ismn_cli.testing import ConformanceError, check_dataset

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]
SPLITS = ["train", "validation", "test"]


def good(split: str) -> Pair:
    draw = np.random.default_rng(SPLITS.index(split))
    return draw.integers(0, 256, (24, 3, 8, 8), dtype=np.uint8), np.arange(24) % 3


def floats(split: str) -> Pair:
    pixels, labels = good(split)
    return (pixels / 255).astype(np.float32), labels


def channels_last(split: str) -> Pair:
    pixels, labels = good(split)
    return pixels.transpose(0, 2, 3, 1), labels


def tensors(split: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    return None if split == "validation" else tuple(map(torch.from_numpy, good(split)))  # type: ignore[return-value]


class Pictures(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    classes = ("a", "b", "c|<script>")

    def __init__(self, split: str) -> None:
        self.pixels, self.labels = good(split)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        image = Image.fromarray(self.pixels[i].transpose(1, 2, 0))
        return image.resize((8 + i, 12)), int(self.labels[i])


@pytest.mark.parametrize("data", [good, floats, channels_last, tensors, Pictures])
def test_nothing_is_wrong_with_a_good_one(data: Callable[[str], Any]) -> None:
    findings = check_dataset(data)
    assert {f.verdict for f in findings} <= {Verdict.PASS, Verdict.NOT_RUN}
    assert {f.code for f in findings} == {code for code in RULES if code.startswith("CS")}


def no_test(split: str) -> Pair | None:
    return None if split == "test" else good(split)


def two_channels(split: str) -> Pair:
    pixels, labels = good(split)
    return pixels[:, :2], labels


def normalised(split: str) -> Pair:
    pixels, labels = floats(split)
    return (pixels - 0.5) / 0.2, labels


def rounded_to_bytes(split: str) -> Pair:
    pixels, labels = floats(split)
    return pixels.round().astype(np.uint8), labels


def from_one(split: str) -> Pair:
    pixels, labels = good(split)
    return pixels, labels + 1


from_one.classes = ("a", "b", "c")  # type: ignore[attr-defined]


def too_few_labels(split: str) -> Pair:
    pixels, labels = good(split)
    return pixels, labels[:-1]


def one_hot(split: str) -> Pair:
    pixels, labels = good(split)
    return pixels, np.eye(3)[labels]


def named_twice(split: str) -> Pair:
    return good(split)


named_twice.classes = ("a", "b", "a")  # type: ignore[attr-defined]


def missing_class(split: str) -> Pair:
    pixels, labels = good(split)
    return pixels, labels % 2 if split == "test" else labels


def the_same_for_all(split: str) -> Pair:
    return good("test")


CALLS = itertools.count()


def shuffled(split: str) -> Pair:
    pixels, labels = good(split)
    order = np.random.default_rng(next(CALLS)).permutation(len(labels))
    return pixels[order], labels[order]


PLANTED: dict[str, tuple[Callable[[str], Any], ...]] = {
    "CS01": (no_test, two_channels),
    "CS02": (normalised, rounded_to_bytes),
    "CS03": (from_one, too_few_labels, one_hot),
    "CS04": (named_twice,),
    "CS05": (missing_class,),
    "CS06": (the_same_for_all,),
    "CS07": (shuffled,),
}
CASES = [pytest.param(code, each, id=f"{code}-{each.__name__}") for code, all_ in PLANTED.items() for each in all_]


@pytest.mark.parametrize(("code", "data"), CASES)
def test_one_rule_catches_it(code: str, data: Callable[[str], Any]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_dataset(data)
    assert [f.code for f in caught.value.findings if f.verdict is Verdict.FAIL] == [code], str(caught.value)


def test_copies_are_doubted() -> None:
    def twice(split: str) -> Pair:
        pixels, labels = good(split)
        return np.concatenate([pixels, pixels[:3]]), np.concatenate([labels, labels[:3]])

    assert [f.code for f in check_dataset(twice) if f.verdict is Verdict.WARN] == ["CS08"]


def test_all_rules_have_a_planted_fault() -> None:
    assert {*PLANTED, "CS08"} == {code for code in RULES if code.startswith("CS")}


def test_what_it_raises_is_told_and_other_splits_are_not_asked_for() -> None:
    def raises(split: str) -> Pair:
        raise KeyError("no | such <split>")

    with pytest.raises(ConformanceError, match=r"CS01[\s\S]*KeyError: 'no | such <split>'"):
        check_dataset(raises)

    def test_only(split: str) -> Pair:
        if split != "test":
            raise ValueError(split)
        return good(split)

    check_dataset(test_only)


def test_what_is_no_data_set_at_all() -> None:
    for data in (lambda split: 3, lambda: good("test"), lambda split: ([], [])):
        with pytest.raises(ConformanceError, match="CS01"):
            check_dataset(data)
