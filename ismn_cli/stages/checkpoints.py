"""Weights of other people's models: a file of tensors, whatever they are wrapped in, into a module. No code runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Under which of a checkpoint's entries a state dict may lie."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and a wrapping module put before every name."""
NAMED = 4
"""Names that an error lists."""


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the tensors of ``path`` into ``model``, all of them and nothing else.

    A safetensors file, or one of torch.save that holds tensors only. Raises UsageError for a file that cannot be
    read without running code from it, and, with the names, for one that belongs to another model; then nothing
    was changed.
    """
    import torch

    state, wanted = _fitted(read_tensors(path), model), model.state_dict()
    problems = _problems(state, wanted)
    if problems:
        raise UsageError(
            f"{path} does not fit the model: {'; '.join(problems)}.",
            "Is it of this architecture? Give its parameters with --model-arg, such as --model-arg depth=32.",
        )
    with torch.no_grad():
        for name, tensor in state.items():
            wanted[name].copy_(tensor)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name. Raises UsageError."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "Give the weights as --checkpoint FILE.")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    return _unwrapped(content, path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a whole safetensors file: {error}.", "Fetch it again.") from None


def _torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path} holds more than tensors, or is not of torch.save; ismn runs no code from a weights file.",
            "Where you trust it, save the tensors alone: torch.save(model.state_dict(), 'weights.pt').",
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} is not a whole file of torch.save: {reason[:120]}", "Fetch it again.") from None


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for _ in range(len(WRAPPERS)):
        if not isinstance(content, Mapping):
            break
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    found = f"entries {_listed([str(key) for key in content])}" if isinstance(content, Mapping) else "no dictionary"
    raise UsageError(
        f"{path} holds no state dict: {found}.",
        f"Save one alone, or under one of these names: {', '.join(WRAPPERS)}.",
    )


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
