"""CIFAR-10's pickled batches, read without trusting them.

The only names a batch may refer to are those of a numpy byte array, and even these stand here for functions
of our own that check what they are given: nothing that a file names is imported or called.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


def read_batch(content: bytes) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Return (labels int [N], pixels uint8 [N, 3072]) of one file of ``cifar-10-batches-py``.

    Raises ValueError if the file is cut short, refers to anything but a byte array, or holds other things.
    """
    try:
        return _arrays(_Reader(io.BytesIO(content), encoding="bytes").load())
    except Exception as error:  # a malformed pickle may raise anything at all
        raise ValueError(str(error) or type(error).__name__) from None


def _arrays(batch: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    if not isinstance(batch, dict):
        raise ValueError("it is not a dictionary")
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    labels, data = entries.get("labels"), entries.get("data")
    if not isinstance(labels, list) or not isinstance(data, _Array):
        raise ValueError("it has no 'labels' and 'data'")
    if not all(type(label) is int for label in labels):
        raise ValueError("its labels are not whole numbers")
    return np.array(labels, dtype=np.int64), data.pixels()


class _Array:
    """Stands for a numpy array of bytes while it is read."""

    __slots__ = ("_state",)

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return the array [N, M]; raises ValueError unless it holds bytes, row by row."""
        _version, shape, dtype, by_columns, raw = self._state
        if not isinstance(dtype, _ByteType) or by_columns or not isinstance(raw, bytes) or len(shape) != 2:
            raise ValueError("its 'data' is not a table of bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _ByteType:
    """Stands for numpy's dtype of one unsigned byte."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: nothing to know about single bytes."""


class _Allowed:
    """A function that a pickle may call but not alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it alters a function")


def _array(*_type_and_shape: Any) -> _Array:
    return _Array()


def _dtype(code: Any, *_flags: Any) -> _ByteType:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError("its 'data' is not bytes")
    return _ByteType()


def _encode(text: Any, encoding: Any) -> bytes:
    """Python 3 writes bytes this way in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something else than bytes")
    return text.encode("latin1")


def _not_callable(*_arguments: Any) -> Any:
    raise pickle.UnpicklingError("it calls a type")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Allowed(_array),
    ("numpy._core.multiarray", "_reconstruct"): _Allowed(_array),
    ("numpy", "ndarray"): _Allowed(_not_callable),
    ("numpy", "dtype"): _Allowed(_dtype),
    ("_codecs", "encode"): _Allowed(_encode),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no image batch needs")
        return _NAMES[module, name]
