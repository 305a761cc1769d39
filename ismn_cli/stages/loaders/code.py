"""Models from the user's code: a class, a function that makes one, or a model, and perhaps a file of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.references import called, code_hash, form, load_attribute, source_hash
from ismn_cli.stages.checkpoints import load_checkpoint
from ismn_cli.stages.live_pins import settings_pin
from ismn_cli.stages.loaders.made import Made, checkpoint_of

if TYPE_CHECKING:
    from torch import nn


def from_code(choice: ModelChoice, reference: str) -> Made:
    """Return the model that path/to/file.py:attr or package.module:attr names or makes.

    A class's model is in evaluation mode; what a function or a module gives is as it was given. Raises UsageError.
    """
    net = _built(load_attribute(reference, "model", choice.folder), choice)
    origin = loaded(net, choice) or "as its code leaves it (no --checkpoint)"
    content = [reference.rpartition(":")[2], dict(choice.arguments), code_hash(reference, "model", choice.folder)]
    content.append(settings_pin(net))
    return Made(net, _digest([*content, *class_sources(net)]), origin)


def loaded(net: nn.Module, choice: ModelChoice) -> str:
    """Load the checkpoint, if any, and return where it lies, in words."""
    path = checkpoint_of(choice)
    if path is None:
        return ""
    load_checkpoint(net, path, unsafe=choice.unsafe_pickle)
    return str(choice.checkpoint)


def class_sources(net: nn.Module) -> list[str]:
    """Return the hash of each file that defines one of the model's parts, torch's own apart."""
    kinds = {type(module) for module in net.modules()}
    return sorted({source_hash(kind) for kind in kinds if kind.__module__.partition(".")[0] != "torch"})


def _digest(content: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(content), sort_keys=True).encode()).hexdigest()


def _built(found: Any, choice: ModelChoice) -> nn.Module:
    from torch import nn

    if isinstance(found, nn.Module):
        if choice.arguments:
            raise UsageError(
                f"{choice.reference} is a model already: --model-arg would change nothing.",
                "Leave --model-arg away, or name the class.",
            )
        return found
    if not callable(found):
        raise UsageError(f"{choice.reference} is a {type(found).__name__}, not a model.", form("model"))
    model: Any = called(choice.reference, found, choice.arguments, "--model-arg")
    if not isinstance(model, nn.Module):
        raise UsageError(f"{choice.reference} gives a {type(model).__name__}, not a torch module.", form("model"))
    if isinstance(found, type):
        model.eval()
    return model
