"""An attack with parameters of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue


@dataclass(frozen=True, init=False)
class Attack:
    """An attack by its name, or a function of one's own, and those of its parameters that differ from the defaults.

    ``method``: a name of `ismn list attacks`, "path/to/file.py:attack", a function attack(model, x, y, eps,
    **parameters), or a class derived from torchattacks'.

    >>> Attack("pgd", steps=40)
    Attack('pgd', steps=40)
    """

    method: str | Callable[..., Any]
    params: Mapping[str, JsonValue]

    def __init__(self, method: str | Callable[..., Any], **params: JsonValue) -> None:
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "params", params)

    def __repr__(self) -> str:
        name = repr(self.method) if isinstance(self.method, str) else getattr(self.method, "__name__", "?")
        return f"Attack({', '.join([name, *(f'{key}={value!r}' for key, value in self.params.items())])})"
