"""What pins a module or a function of a running program: tensors, settings, and its code down to what it calls.

Where something cannot be pinned, an open file or an object of some other library, no stored result is ever taken for
it: its pin is a new one each time, and it says what it was.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from ismn_cli.core.errors import UsageError
from ismn_cli.core.references import code_hash, source_hash

if TYPE_CHECKING:
    from torch import nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, PurePath, range, slice)
_STATE = frozenset({"_parameters", "_buffers", "_modules", "training", "_is_full_backward_hook"})
"""What nn.Module keeps of itself: tensors and parts are looked at by name, the mode is the harness's."""
_KNOWN = ("torch", "numpy", "ismn_models")
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Pin(NamedTuple):
    """What identifies something of a running program."""

    digest: str
    loose: tuple[str, ...]
    """What of it could not be pinned, in words."""


def pin(thing: object) -> Pin:
    """Return what pins a module, a function or a class."""
    walk = _Walk()
    for part in walk.of(thing, "it"):
        walk.digest.update(part.encode() + b"\x1f")
    if walk.loose:
        walk.digest.update(uuid.uuid4().bytes)
    return Pin(walk.digest.hexdigest(), tuple(dict.fromkeys(walk.loose)))


def settings_pin(module: nn.Module) -> str:
    """Return what pins the settings that a module and its parts hold beside registered tensors.

    Numbers read from a file as it is made, tensors in a list: neither code nor state dict shows them. Empty where some
    cannot be pinned.
    """
    walk = _Walk()
    for name, part in module.named_modules():
        walk.digest.update(name.encode() + b"\x1f")
        for text in walk._mapping(_settings(part), name):
            walk.digest.update(text.encode() + b"\x1f")
    return "" if walk.loose else str(walk.digest.hexdigest())


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds beside tensors and parts."""
    held = {key: value for key, value in vars(module).items() if key not in _STATE and value is not None}
    # Hooks are code that takes part; empty dictionaries of them are what every module has.
    return {key: value for key, value in held.items() if not (isinstance(value, dict) and not value)}


@dataclass
class _Walk:
    """Goes through an object and all that it leads to, each once."""

    digest: Any = field(default_factory=hashlib.sha256)
    seen: dict[int, tuple[int, object]] = field(default_factory=dict)
    """Number and object, by its address: the object is held, so that no other can take its place."""
    loose: list[str] = field(default_factory=list)

    def of(self, value: Any, name: str) -> Iterator[str]:
        """Yield what ``value`` is made of; ``name`` is what it is called where it cannot be pinned."""
        if isinstance(value, _PLAIN):
            yield f"{type(value).__name__} {value!r}"
            return
        if id(value) in self.seen:
            yield f"again {self.seen[id(value)][0]}"
            return
        self.seen[id(value)] = len(self.seen), value
        yield from self._kind(value)(value, name)

    def _kind(self, value: Any) -> Callable[[Any, str], Iterator[str]]:
        import numpy as np
        import torch
        from torch import nn

        kinds: tuple[tuple[Any, Callable[[Any, str], Iterator[str]]], ...] = (
            (torch.Tensor, self._tensor),
            (nn.Module, self._module),
            (np.ndarray, self._array),
            ((torch.dtype, torch.device, torch.Size, np.generic, np.dtype), self._shown),
            (Mapping, self._mapping),
            ((list, tuple, set, frozenset), self._items),
            (types.FunctionType, self._function),
            (types.CodeType, self._code),
            (types.MethodType, self._method),
            (partial, self._partial),
            ((types.BuiltinFunctionType, types.MethodDescriptorType), self._named),
            (types.ModuleType, self._python_file),
            (type, self._class),
        )
        return next((each for kind, each in kinds if isinstance(value, kind)), self._object)

    def _tensor(self, value: Any, name: str) -> Iterator[str]:
        from ismn_cli.stages.weights import hash_tensors

        yield hash_tensors({"": value})

    def _array(self, value: Any, name: str) -> Iterator[str]:
        yield f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"

    def _module(self, value: Any, name: str) -> Iterator[str]:
        import torch

        if isinstance(value, torch.jit.ScriptModule):
            yield str(value.inlined_graph)
            yield from self._mapping(value.state_dict(), name)
            return
        yield from self.of(type(value), name)
        own = {**value._parameters, **value._buffers, **value._modules}
        yield from self._mapping({**own, **_settings(value)}, name)

    def _mapping(self, value: Any, name: str) -> Iterator[str]:
        for key in sorted(value, key=repr):
            yield from self.of(key, name)
            yield from self.of(value[key], f"{name}.{key}")

    def _items(self, value: Any, name: str) -> Iterator[str]:
        yield f"{type(value).__name__} of {len(value)}"
        for number, item in enumerate(sorted(value, key=repr) if isinstance(value, set | frozenset) else value):
            yield from self.of(item, f"{name}[{number}]")

    def _function(self, value: Any, name: str) -> Iterator[str]:
        if _installed(value):
            yield from self._named(value, name)
            return
        yield from self._code(value.__code__, name)
        yield from self.of(value.__defaults__, name)
        yield from self.of(value.__kwdefaults__, name)
        yield from self._mapping(_called(value), name)

    def _code(self, value: Any, name: str) -> Iterator[str]:
        yield value.co_code.hex()
        yield " ".join(value.co_names + value.co_varnames)
        for constant in value.co_consts:
            yield from self.of(constant, name)

    def _method(self, value: Any, name: str) -> Iterator[str]:
        yield from self.of(value.__func__, name)
        yield from self.of(value.__self__, name)

    def _partial(self, value: Any, name: str) -> Iterator[str]:
        yield from self.of((value.func, value.args, value.keywords), name)

    def _class(self, value: Any, name: str) -> Iterator[str]:
        yield from self._named(value, name)
        if _installed(value):
            return
        for base in value.__bases__:
            yield from self.of(base, name)
        own = {key: held for key, held in vars(value).items() if not key.startswith("__") or callable(held)}
        yield from self._mapping({key: _function_of(held) for key, held in own.items()}, value.__qualname__)

    def _named(self, value: Any, name: str) -> Iterator[str]:
        yield f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', value.__name__)}"
        if _installed(value):
            yield source_hash(value)

    def _python_file(self, value: Any, name: str) -> Iterator[str]:
        yield value.__name__
        if _installed(value) or value.__name__ in sys.builtin_module_names:
            return
        try:
            yield code_hash(f"{value.__name__}:")
        except UsageError:
            self.loose.append(f"{name} (a module)")

    def _shown(self, value: Any, name: str) -> Iterator[str]:
        yield repr(value)

    def _object(self, value: Any, name: str) -> Iterator[str]:
        """Pin an object of a class of the user's own by its attributes; nothing is known of others."""
        if _installed(type(value)) or not hasattr(value, "__dict__"):
            self.loose.append(f"{name} (a {type(value).__name__})")
            return
        yield from self.of(type(value), name)
        yield from self._mapping(vars(value), name)


def _called(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function, and those within it, may find in its module and in the functions around it."""
    codes, names = [function.__code__], set[str]()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    around = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not yet set
            around[name] = cell.cell_contents
    return {name: function.__globals__[name] for name in names if name in function.__globals__} | around


def _function_of(held: Any) -> Any:
    """Return the function behind a static or class method or a property, else what is held."""
    if isinstance(held, property):
        return (held.fget, held.fset)
    return held.__func__ if isinstance(held, staticmethod | classmethod) else held


def _installed(value: Any) -> bool:
    """Whether something comes with Python or with an installed package: its name and its file are enough."""
    own = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    root = str(own or "").partition(".")[0]
    if root == "__main__":  # the program, or a notebook, whatever has started it
        return False
    if root in _KNOWN or root in sys.stdlib_module_names:
        return True
    try:
        file = inspect.getsourcefile(value)
    except (TypeError, OSError):
        return False
    return file is not None and Path(file).is_absolute() and file.startswith(_INSTALLED)
