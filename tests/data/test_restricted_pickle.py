"""The restricted unpickler: reads what Python 2 and 3 wrote, and executes nothing."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ismn_cli.data.restricted_pickle import read_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3072)).astype(np.uint8)
LABELS = [3, 0, 9, 1, 1]


def batch(**changes: Any) -> dict[bytes, Any]:
    content: dict[bytes, Any] = {b"labels": LABELS, b"data": PIXELS, b"filenames": [b"a.png"]}
    return content | {name.encode(): value for name, value in changes.items()}


def as_python_2(labels: list[int], pixels: np.ndarray) -> bytes:
    """Write a batch as cPickle and numpy of Python 2 did, which is what the original files contain."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
    )
    raw = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    shape = b"M" + struct.pack("<H", pixels.shape[0]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"K\x00tb" + b"\x89" + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(" + text(b"labels") + numbers + text(b"data") + array + state + b"u."


def assert_read(content: bytes) -> None:
    labels, pixels = read_batch(content)
    assert labels.tolist() == LABELS
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, PIXELS)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL))
def test_batches_written_by_python_3_are_read(protocol: int) -> None:
    assert_read(pickle.dumps(batch(), protocol=protocol))


def test_batches_written_by_python_2_are_read() -> None:
    content = as_python_2(LABELS, PIXELS)
    assert np.array_equal(pickle.loads(content, encoding="bytes")[b"data"], PIXELS), "the test's own writer"
    assert_read(content)


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("place", ["labels", "data", "filenames"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_does_not_execute(tmp_path: Path, place: str, protocol: int) -> None:
    victim = tmp_path / "made-by-the-pickle"
    content = pickle.dumps(batch(**{place: Call(os.mkdir, str(victim))}), protocol=protocol)
    with pytest.raises(ValueError, match=r"refers to (posix|nt)\.mkdir"):
        read_batch(content)
    assert not victim.exists()
    pickle.loads(content)
    assert victim.exists(), "the pickle was not hostile after all"


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "os system",
        "numpy load",
        "numpy.core.multiarray fromfile",
        "numpy.core.multiarray _reconstruct.__globals__",
        "_codecs lookup",
        "ismn_cli.data.restricted_pickle _Array",
        "copyreg _reconstructor",
    ],
)
def test_no_other_name_is_resolved(name: str) -> None:
    module, attribute = name.encode().split()
    by_text = b"\x80\x02c" + module + b"\n" + attribute + b"\n."
    by_stack = (
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module
        + b"\x8c"
        + bytes([len(attribute)])
        + attribute
        + b"\x93."
    )
    for content in (by_text, by_stack):
        with pytest.raises(ValueError, match="which no image batch needs"):
            read_batch(content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zipt" + b"R.",
        b"\x80\x02c_codecs\nencode\n(NX\x06\x00\x00\x00latin1t" + b"R.",
        b"\x80\x02c_codecs\nencode\n}(U\x01xK\x01ub.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02cnumpy\ndtype\n(U\x01OtR.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01tb.",
    ],
)
def test_the_allowed_names_do_nothing_else(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_batch(content)
    assert_read(pickle.dumps(batch(), protocol=2))


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {b"labels": LABELS},
        {b"data": PIXELS},
        batch(labels="3091"),
        batch(labels=[1, "2"]),
        batch(labels=[10**30]),
        batch(data=b"pixels"),
        batch(data=PIXELS.astype(np.float32)),
        batch(data=PIXELS.astype(np.int8)),
        batch(data=PIXELS[0]),
        batch(data=np.asfortranarray(PIXELS)),
    ],
    ids=repr,
)
def test_other_content_is_refused(content: Any) -> None:
    with pytest.raises(ValueError):
        read_batch(pickle.dumps(content, protocol=2))


@given(st.integers(0, len(as_python_2(LABELS, PIXELS)) - 1))
def test_a_batch_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        read_batch(as_python_2(LABELS, PIXELS)[:length])


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError):
        read_batch(noise)
