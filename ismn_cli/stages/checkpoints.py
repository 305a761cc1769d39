"""Weights of other people's models: a file of tensors, whatever they are wrapped in, into a module.

No code of a file runs, unless its reader says so: ``unsafe``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOG = logging.getLogger("ismn")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Under which of a checkpoint's entries a state dict may lie."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and a wrapping module put before every name."""
NAMED = 4
"""Names that an error lists."""


def load_checkpoint(model: nn.Module, path: Path, unsafe: bool = False) -> None:
    """Load the tensors of ``path`` into ``model``, all of them and nothing else.

    A safetensors file, or one of torch.save that holds tensors only; ``unsafe``: or anything at all. Raises UsageError
    for a file that cannot be read without running code from it, and, with the names, for one that belongs to another
    model; then nothing was changed.
    """
    import torch

    state, wanted = _fitted(read_tensors(path, unsafe), model), model.state_dict()
    problems = _problems(state, wanted)
    if problems:
        raise UsageError(
            f"{path} does not fit the model: {'; '.join(problems)}.",
            "Is it of this architecture? Give its parameters with --model-arg, such as --model-arg depth=32.",
        )
    with torch.no_grad():
        for name, tensor in state.items():
            wanted[name].copy_(tensor)


def read_tensors(path: Path, unsafe: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a file by name. Raises UsageError."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "Give the weights as --checkpoint FILE.")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path, unsafe)
    return _unwrapped(content, path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a whole safetensors file: {error}.", "Fetch it again.") from None


def _torch(path: Path, unsafe: bool) -> Any:
    import pickle

    from torch import nn

    try:
        content = read_pickle(path, unsafe=False)
    except pickle.UnpicklingError:
        if not unsafe:
            raise UsageError(
                f"{path} holds more than tensors, or is not of torch.save; ismn runs no code from a weights file.",
                "Save the tensors alone: torch.save(model.state_dict(), 'weights.pt'). Or, where you trust who made "
                "it: --unsafe-pickle.",
            ) from None
        _LOG.warning("%s is opened with --unsafe-pickle: whatever code is in it runs.", path)
        content = read_pickle(path, unsafe=True)
    return content.state_dict() if isinstance(content, nn.Module) else content


def read_pickle(path: Path, unsafe: bool) -> Any:
    """Return what torch.save has written. ``unsafe``: whatever it is, and whatever code it runs.

    Raises UsageError for what is not a whole file; otherwise UnpicklingError for what is not tensors alone.
    """
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        if not unsafe:
            raise
        failed: Exception = error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        failed = error
    except Exception as error:  # a pickle may raise anything at all
        raise UsageError(
            f"{path} cannot be opened: {type(error).__name__}: {error}.",
            "Is the code that it was saved from in this folder, or installed?",
        ) from error
    reason = (str(failed).strip().splitlines() or [type(failed).__name__])[0]
    raise UsageError(f"{path} is not a whole file of torch.save: {reason[:120]}", "Fetch it again.") from None


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for _ in range(len(WRAPPERS)):
        if not isinstance(content, Mapping):
            break
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
        inner = next((each for key in WRAPPERS if (each := _mapping(content.get(key))) is not None), None)
        if inner is None:
            break
        content = inner
    found = f"entries {_listed([str(key) for key in content])}" if isinstance(content, Mapping) else "no dictionary"
    raise UsageError(
        f"{path} holds no state dict: {found}.",
        f"Save one alone, or under one of these names: {', '.join(WRAPPERS)}.",
    )


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return a dictionary, or that of a pickled module."""
    from torch import nn

    if isinstance(value, nn.Module):
        return value.state_dict()
    return value if isinstance(value, Mapping) else None


def _fitted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors by the model's names: without a prefix that every name has and the model's have not."""
    wanted = model.state_dict()
    while not any(name in wanted for name in state):
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _problems(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    # Older torch did not count batches, and nothing but training reads the count.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in wanted]
    other = [
        f"{name} is {_shape(state[name])} there and {_shape(tensor)} in the model"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [f"it lacks {_listed(missing)}"] if missing else []
    problems += [f"the model has no {_listed(unknown)}"] if unknown else []
    return problems + ([_listed(other)] if other else [])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
