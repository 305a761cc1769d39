"""Where the work runs, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ismn_cli.core.errors import UsageError

_HINT = "Give --device auto, or --device cpu."


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" is the first CUDA device if there is one, else the CPU.

    Raises UsageError for a name that torch does not know and for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UsageError(f"There is no device called '{name}'.", _HINT) from None
    if not _present(device):
        raise UsageError(f"Device '{name}' was asked for, but torch finds none here.", _HINT)
    return device


def _present(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type == "mps" and torch.backends.mps.is_available()


def autocast(device: torch.device, precision: str = "auto") -> Callable[[], AbstractContextManager[Any]]:
    """Return a factory of contexts for one step's forward pass: "fp32", "bf16", or "auto".

    "auto" is bf16 where the hardware computes in it, else fp32: emulated bf16 is slower than fp32.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"There is no precision '{precision}'.", "Known: auto, fp32, bf16.")
    if precision == "fp32" or (precision == "auto" and not has_bf16(device)):
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies in bf16 by itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names: on a torch without them the answer is no, which is slower but never wrong.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = [getattr(torch.cpu, probe, None) for probe in probes]
    return device.type == "cpu" and any(probe() for probe in found if probe is not None)
