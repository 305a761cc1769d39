"""Arrays and notes of a safetensors file, out of its bytes. No torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]


def unpack(content: bytes) -> tuple[Arrays, dict[str, str]]:
    """Return what `safetensors.numpy.save` was given.

    The file is read before, not mapped: over NFS a map of one that is replaced ends the process that looks at it.
    Raises ValueError for anything else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: Arrays = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: numbers that numpy has not
        raise ValueError(str(error)) from None
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return arrays, head.get("__metadata__") or {}
