"""Image sets: ids stay with their images; selection is seeded, balanced and nested."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.errors import UsageError
from ismn_cli.data.image_set import ImageSet, content_hash


def image_set(labels: list[int]) -> ImageSet:
    """A set whose image number k has id 1000 + 7k and pixels that tell k."""
    n = len(labels)
    pixels = torch.arange(n).to(torch.uint8)[:, None, None, None].expand(n, 3, 2, 2).clone()
    return ImageSet(
        pixels=pixels,
        labels=torch.tensor(labels, dtype=torch.int64),
        name="made-up",
        split="test",
        ids=1000 + 7 * torch.arange(n),
        classes=tuple("abcdefghij"),
        data_hash="d" * 64,
        total=n,
    )


LABELS = st.lists(st.integers(0, 9), min_size=2, max_size=60)
SEEDS = st.integers(0, 2**31)


def assert_belongs(part: ImageSet, whole: ImageSet) -> None:
    position = (part.ids - 1000) // 7
    assert torch.equal(part.labels, whole.labels[position])
    assert torch.equal(part.pixels, whole.pixels[position])
    assert (part.data_hash, part.total, part.name) == (whole.data_hash, whole.total, whole.name)


@given(LABELS, SEEDS, st.data())
def test_a_selection_is_the_beginning_of_every_larger_one(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    whole = image_set(labels)
    large = data.draw(st.integers(1, len(labels) - 1))
    small = data.draw(st.integers(1, large))
    selected = whole.select(large, seed)
    assert len(selected) == large == len(set(selected.ids.tolist()))
    assert torch.equal(whole.select(small, seed).ids, selected.ids[:small])
    assert_belongs(selected, whole)


@given(LABELS, SEEDS, st.data())
def test_no_class_is_ahead_of_one_that_still_has_images(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    limit = data.draw(st.integers(1, len(labels) - 1))
    chosen = Counter(image_set(labels).select(limit, seed).labels.tolist())
    there = Counter(labels)
    unfinished = [chosen[c] for c in there if chosen[c] < there[c]]
    assert max(chosen.values()) - min(unfinished) <= 1


@given(LABELS, SEEDS)
def test_the_order_depends_on_ids_not_on_positions(labels: list[int], seed: int) -> None:
    whole = image_set(labels)
    backwards = whole.take(torch.arange(len(labels)).flip(0))
    limit = len(labels) // 2
    assert torch.equal(whole.select(limit, seed).ids, backwards.select(limit, seed).ids)


def test_seeds_give_different_orders_of_images_and_of_classes() -> None:
    whole = image_set([i % 10 for i in range(200)])
    orders = [whole.select(100, seed) for seed in range(5)]
    assert len({tuple(o.ids.tolist()) for o in orders}) == 5
    assert len({tuple(o.labels[:10].tolist()) for o in orders}) > 1


def test_the_order_is_the_same_for_ever() -> None:
    """Results are stored under these ids: a change here makes stored cells unreachable."""
    assert image_set([0, 1, 2] * 10).select(6, 0).ids.tolist() == [1189, 1196, 1035, 1147, 1070, 1056]


@pytest.mark.parametrize("limit", [20, 21, 10**9])
def test_a_limit_beyond_the_set_gives_the_set_itself(limit: int) -> None:
    whole = image_set([0, 1] * 10)
    assert whole.select(limit, 3) is whole
    assert not whole.select(limit, 3).samples().limited


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing_is_an_error(limit: int) -> None:
    with pytest.raises(UsageError, match="leaves no images"):
        image_set([0, 1]).select(limit, 0)


def test_taking_and_moving_keep_ids_with_their_images() -> None:
    whole = image_set(list(range(10)))
    assert_belongs(whole.take(slice(2, 5)), whole)
    assert whole.take(torch.tensor([4, 1])).ids.tolist() == [1028, 1007]
    moved = whole.to("meta")
    assert {t.device.type for t in (moved.pixels, moved.labels, moved.ids)} == {"meta"}


@given(LABELS, st.data())
def test_samples_tell_sets_apart(labels: list[int], data: st.DataObject) -> None:
    whole = image_set(labels)
    indices = st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=8)
    one, other = (whole.take(torch.tensor(data.draw(indices))) for _ in range(2))
    assert (one.samples() == other.samples()) == (one.ids.tolist() == other.ids.tolist())
    assert one.samples().count == len(one)
    assert one.samples().total == len(whole)


@given(st.integers(0, 255), st.integers(0, 11), st.booleans())
def test_every_byte_counts_in_the_content_hash(value: int, place: int, in_labels: bool) -> None:
    labels, pixels = np.zeros(12, np.uint8), np.zeros((12, 3, 2, 2), np.uint8)
    before = content_hash(labels, pixels)
    (labels if in_labels else pixels.reshape(-1))[place] = value
    assert (content_hash(labels, pixels) == before) == (value == 0)


def test_the_content_hash_does_not_depend_on_memory_layout() -> None:
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 3, 2, 2)
    records = np.concatenate([np.ones((4, 1), np.uint8), pixels.reshape(4, 12)], axis=1)
    strided = records[:, 1:].reshape(4, 3, 2, 2)
    assert content_hash(records[:, 0], strided) == content_hash(np.ones(4, np.uint8), pixels)
