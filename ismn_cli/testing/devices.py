"""Can a module be moved? Tried on a GPU where there is one, else on torch's meta device, which has shapes only."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ismn_cli.testing.verdicts import Said, fine, unasked, wrong

_MIXED = ("same device", "expected device", "device meta", "on device", "device type")


def moved(module: nn.Module, x: Tensor, run: Callable[[nn.Module, Tensor], object]) -> Said:
    """Move a copy of ``module`` and x to another device and ``run`` it there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    try:
        there = copy.deepcopy(module).to(device)
    except Exception as error:
        return unasked(f"No copy of it could be moved to {device} ({type(error).__name__}).")
    try:
        with torch.no_grad():
            run(there, x.to(device))
    except Exception as error:
        return _judged(error, device)
    return fine(f"It runs on {device}.")


def _judged(error: Exception, device: torch.device) -> Said:
    first = (str(error).strip().splitlines() or [""])[0]
    if any(word in first for word in _MIXED) and "out of meta" not in first:
        return wrong(f"On {device} it mixes devices: {type(error).__name__}: {first.rstrip('.')}.")
    if device.type == "meta":
        return unasked(f"It looks at numbers on the way, which only a GPU could try ({type(error).__name__}).")
    return wrong(f"On {device} it raises {type(error).__name__}: {first.rstrip('.')}.")
