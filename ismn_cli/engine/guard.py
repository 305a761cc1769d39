"""A model lent to a stranger's code: what that code changed is found, named and put back.

Only attacks of the user's own are watched; ismn's cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ismn_cli.engine.counting import Counted

_NAMED = 3
"""Weights that a note lists."""
_COUNTERS = ("forwards", "backwards", "images")
_GRAFTS = {"_parameters": "weights", "_buffers": "weights", "_modules": "modules"}
"""Of a module's own dictionaries, those that hold its parts; all others with "hook" in their name hold hooks."""


class _Setting(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


_SETTINGS = (
    _Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    # Its setter enters a mode for good; None leaves it again.
    _Setting("default device", torch.get_default_device, lambda _: torch.set_default_device(None)),
    _Setting("number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting(
        "deterministic algorithms", torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    ),
    _Setting("matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Setting("anomaly mode", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    _Setting(
        "autocast", lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)
    ),
    _Setting(
        "cuda autocast",
        lambda: torch.is_autocast_enabled("cuda"),
        lambda value: torch.set_autocast_enabled("cuda", value),
    ),
)
"""Settings of the process that would reach the cells after."""


class _Settings:
    """torch's settings as they were."""

    def __init__(self) -> None:
        self.values = [setting.read() for setting in _SETTINGS]

    def restored(self) -> list[str]:
        """Put them back; return the names of those that had changed."""
        changed = [(s, value) for s, value in zip(_SETTINGS, self.values, strict=True) if s.read() != value]
        for setting, value in changed:
            setting.write(value)
        return [setting.name for setting, _ in changed]


@contextmanager
def settings_kept() -> Iterator[None]:
    """Run a block, such as the import of a stranger's file, and put torch's settings back as they were."""
    settings = _Settings()
    try:
        yield
    finally:
        settings.restored()


def _grad_of(tensor: Tensor) -> Tensor | None:
    """Return the gradient that a tensor holds; what was computed from others holds none, and torch warns when asked."""
    return tensor.grad if tensor.is_leaf else None


class _Weight:
    """A parameter or buffer as it was, and a copy of what it holds."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.tensor = name, tensor
        self.copy = tensor.detach().clone()
        self.place, self.needs, self.grad = tensor.data_ptr(), tensor.requires_grad, _grad_of(tensor)
        self.hooks = tensor._backward_hooks

    def moved(self) -> bool:
        """Whether it holds other numbers, or lies elsewhere."""
        return self._elsewhere() or not (torch.equal(self.tensor, self.copy) or _equal_with_nan(self.tensor, self.copy))

    def _elsewhere(self) -> bool:
        # Memory that a stranger put there may be in his hands still.
        tensor, copy = self.tensor, self.copy
        return tensor.data_ptr() != self.place or tensor.shape != copy.shape or tensor.dtype != copy.dtype

    def switched(self) -> bool:
        """Whether it takes gradients where it did not, or holds another one."""
        return self.tensor.requires_grad != self.needs or _grad_of(self.tensor) is not self.grad

    def restore(self) -> None:
        """Put it back."""
        if self._elsewhere():
            self.tensor.data = self.copy.clone()
            self.place = self.tensor.data_ptr()
        elif self.moved():
            self.tensor.copy_(self.copy)
        if self.switched():
            self.tensor.requires_grad_(self.needs)
            self.tensor.grad = self.grad
        if self.tensor._backward_hooks is not self.hooks:
            self.tensor._backward_hooks = self.hooks


def _equal_with_nan(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


class _Part:
    """A module's own attributes as they were, its dictionaries copied one level deep."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name or "the model", module
        self.before = {key: value for key, value in vars(module).items() if not self._counts(key)}
        self.inner = {key: dict(value) for key, value in self.before.items() if isinstance(value, dict)}

    def restored(self) -> Iterator[str]:
        """Put all back; yield what had changed, of what no model changes by itself when it answers."""
        now = vars(self.module)
        for key in [key for key in now if key not in self.before and not self._counts(key)]:
            if callable(now[key]) and hasattr(type(self.module), key):
                yield f"replaced {key} of {self.name}"
            del now[key]
        for key, value in self.before.items():
            if now.get(key, self) is value:
                continue
            if key == "training":
                yield f"left {self.name} in {'training' if now.get(key) else 'evaluation'} mode"
            elif callable(value):
                yield f"replaced {key} of {self.name}"
            now[key] = value
        for key, content in self.inner.items():
            yield from self._content(key, now[key], content)

    def _content(self, key: str, now: dict[Any, Any], before: dict[Any, Any]) -> Iterator[str]:
        if len(now) == len(before) and all(now.get(name, self) is value for name, value in before.items()):
            return
        if key in _GRAFTS:
            yield f"replaced {_GRAFTS[key]} of {self.name}"
        elif "hook" in key:
            yield f"left hooks on {self.name}"
        now.clear()
        now.update(before)

    def _counts(self, key: str) -> bool:
        return key in _COUNTERS and isinstance(self.module, Counted)


class Guard:
    """``model`` and torch's settings as they are now; `restored` puts them back after a stranger's code has run.

    It holds a copy of every weight, and looks at their contents: an attack can change them in place, through
    ``.data`` or in another module's name, and torch would not tell.
    """

    def __init__(self, model: nn.Module) -> None:
        self.settings = _Settings()
        self.parts = [_Part(name, module) for name, module in model.named_modules()]
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.weights = [_Weight(name, tensor) for name, tensor in tensors]

    def restored(self) -> list[str]:
        """Put everything back, and return what had changed, each as "left the model in training mode"."""
        found = [f"changed torch's {name}" for name in self.settings.restored()]
        with torch.inference_mode(False), torch.no_grad():
            found += _modes([said for part in self.parts for said in part.restored()])
            moved = [weight.name for weight in self.weights if weight.moved()]
            switched = [weight.name for weight in self.weights if weight.switched()]
            for weight in self.weights:
                weight.restore()
        if moved:
            found.append(f"changed the model's weights ({_some(moved)})")
        if switched:
            found.append(f"left gradients on the model's weights ({_some(switched)})")
        return list(dict.fromkeys(found))


def _modes(found: Iterable[str]) -> list[str]:
    """Return ``found`` with one line for a mode that many modules were left in."""
    kept: list[str] = []
    for said in found:
        mode = next((mode for mode in ("training", "evaluation") if said.endswith(f"in {mode} mode")), None)
        kept.append(f"left the model in {mode} mode" if mode else said)
    return kept


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
