"""How much memory a step takes, found without taking it: the step runs on tensors that have no contents.

Shapes, types and the life of every tensor are the real ones, since it is the real code that runs; only the numbers
are missing. Where the code asks for one, it is told what as a rule costs the most memory: a condition holds, and a
selection takes everything.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_ATEN = torch.ops.aten
_INDEXED = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)
_ENDLESS = 100_000
"""Operations after which a step is given up: without numbers it may wait for ever for one to change."""
_MOST = 1024
"""The largest batch that is looked for."""


def peak_bytes(step: Callable[[], object], *, contents: bool = False, held: Iterable[Tensor] = ()) -> int:
    """Return the most bytes that the tensors made in ``step`` take at one time, on the CPU.

    Parameters, optimisers, what a gradient waits for: all count from when they are made until nothing needs them. What
    was there before does not count, nor a library's own working memory inside one operation: ISMN's steps at 512x512
    were seen to take three tenths more. ``step`` must copy what it would change of what was there before. Raises
    whatever it raises where it cannot run without numbers, such as a codec that wants the pixels; with ``contents`` it
    has them, and takes the time and the memory that it takes. What is ``held`` counts then too, though it was there
    before, and with it every view of it.
    """
    if contents:
        ledger = _Ledger()
        for tensor in held:
            ledger.hold(tensor)
        with ledger:
            step()
        return ledger.peak
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    ledger = _Hollow(fakes)
    with fakes, _Copying(), ledger:
        step()
    return ledger.peak


def largest_batch(peak_at: Callable[[int], int], batch: int, limit: int) -> int:
    """Return a batch, of 1,024 at most, whose peak is at most ``limit`` bytes; 0 where even one image is too much.

    It is the largest one where ``peak_at`` (batch size -> bytes) is a straight line, as it is as a rule: the peaks of
    ``batch`` and of twice as many give a guess, which is checked, and halved until it fits.
    """
    first, second = peak_at(batch), peak_at(2 * batch)
    slope = max((second - first) / batch, 1.0)
    guess = min(_MOST, int(batch + (limit - first) / slope))
    while guess > 0 and peak_at(guess) > limit:
        guess //= 2
    return max(guess, 0)


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory is free on ``device``; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_bytes(), default=None) if device.type == "cpu" else None


def _free_bytes() -> Iterator[int]:
    """Yield what bounds this process's memory: the machine's, and its container's."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        yield 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text(encoding="ascii"))
        yield int((group / "memory.max").read_text(encoding="ascii")) - used
    with suppress(OSError, ValueError, AttributeError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive."""

    counted: type[Tensor] = Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.carry_out(func, args, kwargs or {})
        tree_map_only(self.counted, self.hold, result)
        self.peak = max(self.peak, self.live)
        return result

    def carry_out(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return what an operation returns."""
        return func(*args, **kwargs)

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor until nothing needs it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += self.sizes[key]
            weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


class _Hollow(_Ledger):  # type: ignore[no-untyped-call]
    """The same for tensors without contents: answers what they cannot."""

    counted = FakeTensor

    def __init__(self, fakes: FakeTensorMode) -> None:
        super().__init__()
        self.fakes, self.done = fakes, 0

    def carry_out(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """See `_Ledger.carry_out`. Raises RuntimeError for a step that never ends."""
        self.done += 1
        if self.done > _ENDLESS:
            raise RuntimeError("without numbers it does not come to an end")
        result = _answer(func, args, kwargs)
        # A module refuses to be moved while anything, such as this memo, knows its parameters.
        self.fakes.fake_tensor_converter.tensor_memo.clear()
        return result


class _Copying(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors without contents, of which torch knows no storage to copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            original, memo = args
            if id(original) not in memo:
                memo[id(original)] = original.detach().clone().requires_grad_(original.requires_grad)
            return memo[id(original)]
        return func(*args, **(kwargs or {}))


def _answer(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is _ATEN._local_scalar_dense.default:
        return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
    if func is _ATEN.equal.default:
        return True
    if func is _ATEN.nonzero.default:
        return args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
    if func is _ATEN.masked_select.default:
        return args[0].new_zeros(args[0].numel())
    if func is _ATEN.bincount.default:
        return args[0].new_zeros(max(1, *args[2:], kwargs.get("minlength", 0)), dtype=torch.int64)
    if func in _INDEXED:
        args = (args[0], _everything(args[1]), *args[2:])
    return func(*args, **kwargs)


def _everything(indices: Any) -> list[Any]:
    """Return ``indices`` with each mask as the positions it would give if it were true everywhere."""
    found: list[Any] = []
    for index in indices:
        if index is None or index.dtype != torch.bool:
            found.append(index)
        else:
            found += [index.new_zeros(index.numel(), dtype=torch.int64)] * index.ndim
    return found
