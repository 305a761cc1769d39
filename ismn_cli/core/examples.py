"""Adversarial examples on disk, a file for each batch: a killed attack continues at the batch it was at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.storage import move_aside, read_bytes, write_bytes
from ismn_cli.core.tensors import unpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ismn_cli.core.tensors import Arrays

_DIGEST = "sha256"


class Examples:
    """The batches of one attack, in the folder ``folder`` of the store at ``root``."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    def read(self, index: int) -> tuple[Arrays, dict[str, str]] | None:
        """Return the arrays of batch ``index`` and what was noted beside them, as they were put.

        None where none can be trusted.
        """
        path = self._path(index)
        content = read_bytes(path)
        if content is None:
            return None
        try:
            arrays, metadata = unpack(content)
        except ValueError as error:
            move_aside(self.root, path, str(error))
            return None
        # The format finds a truncated file; only a digest finds blocks that a crash left zero.
        if metadata.pop(_DIGEST, None) != _digest(arrays):
            move_aside(self.root, path, "its content has changed since it was written")
            return None
        return arrays, metadata

    def put_batch(self, index: int, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        """Store a batch in one piece; float64 becomes float32. Raises UsageError where the disk refuses."""
        from safetensors.numpy import save

        whole = {name: _plain(array) for name, array in arrays.items()}
        content = save(whole, {**metadata, _DIGEST: _digest(whole)})
        write_bytes(self._path(index), content)

    def _path(self, index: int) -> Path:
        return self.folder / f"batch-{index:05d}.safetensors"


def _plain(array: np.ndarray) -> NDArray[Any]:
    import numpy as np

    whole = np.ascontiguousarray(array)
    return whole.astype(np.float32) if whole.dtype == np.float64 else whole


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return sha256 over names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name} {array.dtype} {array.shape} ".encode())
        total.update(array.data)
    return total.hexdigest()
