"""Weights on disk: safetensors of a pipeline's parts, with what rebuilds the system in the header."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue, ValidationError

from ismn_cli.core.errors import UsageError
from ismn_cli.core.files import replace_atomically
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.specs import DataKind, Frozen
from ismn_models.shape import Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ismn_models.pipeline import Pipeline

HEADER = "ismn"


class Header(Frozen):
    """What a weights file belongs to: enough to build the system again."""

    system: str
    """By the name that `ismn train --system` knows it by."""
    config: dict[str, JsonValue]
    classes: int
    channels: int
    size: int = 32
    """Pixels a side."""
    dataset: str
    data: str
    """Content hash of the training split."""
    images: int
    """Number of training images."""
    epochs: dict[str, int]
    """Of each stage."""
    base: str
    """sha256 over the tensors of the base classifier, whether or not they are in the file."""
    base_config: dict[str, JsonValue]
    """The base classifier's own settings."""
    model: ModelChoice | None = None
    """The base classifier, where it is one of the user's own: it is made again from this, and is not in the file.
    ``base`` is then its pin; see `ismn_cli.stages.user_models.UserModel`."""

    def kind(self) -> DataKind:
        """Return the kind of images that the system is for."""
        return DataKind(self.dataset, Shape(self.classes, self.channels, self.size))


def parts_state(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return every tensor of the system as "base.", "defence." and perhaps "classifier." names."""
    return {
        f"{part}.{name}": tensor
        for part, module in pipeline.parts().items()
        for name, tensor in module.state_dict().items()
    }


def tensor_hash(module: nn.Module) -> str:
    """Return the sha256 over names, types, shapes and bytes of the tensors, in any memory format."""
    return hash_tensors(module.state_dict())


def system_hash(pipeline: Pipeline) -> str:
    """Return `tensor_hash` over the parts of a system, each counted once."""
    return hash_tensors(parts_state(pipeline))


def hash_tensors(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes of ``state``."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, pipeline: Pipeline, header: Header, *, half: bool = False, base: bool = True) -> None:
    """Write the system's tensors to ``path`` in one piece.

    ``half`` rounds them to fp16, apart from scalars (thresholds) and what fp16 cannot hold; without ``base``
    the base classifier is left out: it has a file of its own. Raises OSError.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu() for name, tensor in parts_state(pipeline).items()}
    kept = {name: tensor for name, tensor in state.items() if base or not name.startswith("base.")}
    stored = {name: (_half(t) if half else t).contiguous().clone() for name, t in kept.items()}
    # Not save_file: its files are for their owner alone, and these are shipped.
    content = save(stored, {HEADER: header.model_dump_json()})
    replace_atomically(path, lambda temporary: temporary.write_bytes(content))


FEW = 64
"""Tensors of no more numbers are not rounded."""


def _half(tensor: Tensor) -> Tensor:
    import torch

    # Thresholds are few numbers, and an image may stand right at one.
    if not tensor.is_floating_point() or tensor.numel() <= FEW:
        return tensor
    rounded = tensor.half()
    return rounded if torch.equal(rounded.isfinite(), tensor.isfinite()) else tensor


def read_header(path: Path) -> Header:
    """Return the header of a weights file, without torch. Raises UsageError if there is none to read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        return Header.model_validate_json(metadata[HEADER])
    except FileNotFoundError:
        raise UsageError(f"The weights file {path} is missing.", "Train again with --fresh.") from None
    except (SafetensorError, KeyError, ValidationError, OSError) as error:
        raise _unreadable(path, error) from None


def load_weights(path: Path, pipeline: Pipeline, *, base: bool = True) -> None:
    """Load ``path`` into ``pipeline``, in float32 whatever the file holds.

    With ``base=False`` the file holds no base classifier, and the pipeline's is left as it is. Raises
    UsageError if the file is damaged or belongs to another architecture; then nothing was changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None
    wanted = {n: t for n, t in parts_state(pipeline).items() if base or not n.startswith("base.")}
    _check_architecture(path, stored, wanted)
    _copy(stored, wanted)


def _copy(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])


def _check_architecture(path: Path, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    problems = [f"'{name}' is missing" for name in wanted if name not in stored]
    problems += [f"'{name}' is unknown" for name in stored if name not in wanted]
    problems += [
        f"'{name}' is {_shape(stored[name])} instead of {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in stored and stored[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 2} more" if len(problems) > 2 else ""
        raise UsageError(
            f"{path} belongs to another architecture: {', '.join(problems[:2])}{more}.",
            "Train again with --fresh, or name another run with --weights.",
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is not a whole weights file ({type(error).__name__}).",
        "Train again with --fresh, or name another run with --weights.",
    )


def on_device(pipeline: Pipeline, device: torch.device) -> Pipeline:
    """Move the system to ``device`` in channels-last order, the faster one for convolutions."""
    import torch

    return cast("Pipeline", pipeline.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
