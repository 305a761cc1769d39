from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ismn_cli.core.errors import UsageError
from ismn_cli.core.examples import Examples
from ismn_cli.core.store import Store

KEY = "ab" + "0" * 62

arrays = st.dictionaries(
    st.sampled_from(["adversarial", "linf", "failed", "labels"]),
    st.sampled_from([np.float32, np.bool_, np.int64]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    ),
    min_size=1,
)


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    return Store.open(tmp_path / "store").examples(KEY)


def batch(mark: float = 0.5) -> dict[str, np.ndarray]:
    return {"adversarial": np.full((4, 3, 8, 8), mark, np.float32), "failed": np.zeros(4, bool)}


def file_of(examples: Examples, index: int = 0) -> Path:
    return examples.root / "examples" / "ab" / KEY / f"batch-{index:05d}.safetensors"


@given(arrays, st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 99_999))
def test_what_is_put_is_what_is_got(
    tmp_path_factory: pytest.TempPathFactory, put: dict[str, np.ndarray], notes: dict[str, str], index: int
) -> None:
    examples = Store.open(tmp_path_factory.mktemp("store")).examples(KEY)
    assert examples.read(index) is None
    examples.put_batch(index, put, notes)
    got, noted = examples.read(index)
    assert got is not None and got.keys() == put.keys()
    for name, array in put.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)
    assert noted == notes


def test_float64_becomes_float32_and_order_does_not_matter(examples: Examples) -> None:
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(2, 0, 1)
    examples.put_batch(0, {"adversarial": array}, {})
    got = examples.read(0)[0]["adversarial"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, array)


def test_batches_do_not_touch_one_another(examples: Examples) -> None:
    examples.put_batch(0, batch(0.1), {})
    examples.put_batch(2, batch(0.2), {})
    assert examples.read(1) is None
    np.testing.assert_array_equal(examples.read(0)[0]["adversarial"], batch(0.1)["adversarial"])
    np.testing.assert_array_equal(examples.read(2)[0]["adversarial"], batch(0.2)["adversarial"])


def truncated(content: bytes) -> bytes:
    return content[:-5]


def zeroed_at_the_end(content: bytes) -> bytes:
    """What a crash of the machine can leave: the right length, blocks never written."""
    return content[:-64] + b"\0" * 64


def one_bit(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


@pytest.mark.parametrize(
    "spoil", [truncated, zeroed_at_the_end, one_bit, lambda _: b"", lambda _: b"not safetensors at all"]
)
def test_what_cannot_be_trusted_is_reported_and_set_aside(
    examples: Examples, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    put = {"adversarial": np.full((4, 3, 8, 8), 0.5, np.float32)}
    examples.put_batch(0, put, {})
    file_of(examples).write_bytes(spoil(file_of(examples).read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert examples.read(0) is None
    assert str(file_of(examples)) in caplog.text
    assert not file_of(examples).exists()
    assert len(list((examples.root / "corrupt").iterdir())) == 1
    examples.put_batch(0, batch(0.2), {})
    np.testing.assert_array_equal(examples.read(0)[0]["adversarial"], batch(0.2)["adversarial"])


@pytest.mark.parametrize("place", ["os.fsync", "pathlib.Path.write_bytes", "pathlib.Path.mkdir"])
def test_a_full_disk_keeps_what_is_there(
    examples: Examples, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    examples.put_batch(0, batch(0.1), {})
    with monkeypatch.context() as patch:
        patch.setattr(place, refuse)
        for index in (0, 1):
            with pytest.raises(UsageError, match="No space left"):
                examples.put_batch(index, batch(0.2), {})
    np.testing.assert_array_equal(examples.read(0)[0]["adversarial"], batch(0.1)["adversarial"])
    assert examples.read(1) is None
    assert [path.name for path in file_of(examples).parent.iterdir()] == ["batch-00000.safetensors"]
