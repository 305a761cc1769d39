"""Models that are whole files of torch: TorchScript, torch.export, and pickled modules.

What such a file can do when it is opened decides what it takes:

* TorchScript is read by torch's own reader, which calls nothing of Python; its programs can write files by two
  operations only, and one that has them is refused.
* torch.export's files hold pickles, and names that are looked up in torch and called; a pickled module is a program.
  Both are opened with ``unsafe_pickle`` only, with a warning.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.references import first_on_path, running
from ismn_cli.stages.checkpoints import read_pickle
from ismn_cli.stages.loaders.made import Made, file_hash, given_file

if TYPE_CHECKING:
    from torch import nn

_LOG = logging.getLogger("ismn")
_WRITES = re.compile(rb"\b(save|from_file|load_tensor|read_file|write_file)\s*\(|\b(save|from_file)\b\s*\.\s*out\b")
"""What touches the disk among operations: torch's aten::save, aten::from_file and debugprims::load_tensor, and
torchvision's image::read_file and image::write_file."""
_TRUST = "Where you trust who made it, add --unsafe-pickle (in a recipe: model.unsafe_pickle: true)"


def torch_file(choice: ModelChoice) -> Made:
    """Return the model in a .pt or .pth file: TorchScript, or with ``unsafe_pickle`` a pickled module."""
    path = given_file(choice)
    records = _records(path)
    if records is not None and "constants.pkl" in records:
        return _script(choice, path)
    return _pickled(choice, path)


def exported(choice: ModelChoice) -> Made:
    """Return the model in a .pt2 file of torch.export. Raises UsageError without ``unsafe_pickle``."""
    import torch

    from ismn_cli.engine.graphs import Exported

    path = given_file(choice)
    if not choice.unsafe_pickle:
        raise UsageError(
            f"Opening {choice.reference}, a file of torch.export, can run code that is in it.",
            f"{_TRUST}; TorchScript or the code with a safetensors file needs no trust.",
        )
    warn_unsafe(path)
    program = running(f"Opening {choice.reference}", lambda: torch.export.load(path))
    net = running(f"Opening {choice.reference}", lambda: Exported(program))
    return Made(net, file_hash(path), choice.reference)


def warn_unsafe(path: Path) -> None:
    """Say that a file is opened which can run code."""
    _LOG.warning("%s is opened with --unsafe-pickle: whatever code is in it runs.", path)


def _script(choice: ModelChoice, path: Path) -> Made:
    from ismn_cli.engine.graphs import Scripted

    if not choice.unsafe_pickle:
        _check_script(choice.reference, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that torch.jit is no longer developed
        net: Any = running(f"Opening {choice.reference}", lambda: _opened(path))
    return Made(Scripted(net), file_hash(path), choice.reference)


def _opened(path: Path) -> Any:
    import torch

    return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]


def _check_script(name: str, path: Path) -> None:
    """Raise UsageError for a program that names an operation on files. Read as torch reads it, byte for byte."""
    import torch

    reader = torch._C.PyTorchFileReader(str(path))
    for record in reader.get_all_records():
        found = _WRITES.search(reader.get_record(record)) if record.endswith(".py") else None
        if found:
            raise UsageError(
                f"{name} is a program that reads or writes files when it runs ({found[0].decode()}... in {record}).",
                f"{_TRUST}.",
            )


def _records(path: Path) -> list[str] | None:
    """Return the names of what is in torch's kind of archive; None for a file of another kind."""
    import torch

    try:
        return list(torch._C.PyTorchFileReader(str(path)).get_all_records())
    except RuntimeError:
        return None


def _pickled(choice: ModelChoice, path: Path) -> Made:
    from torch import nn

    if not choice.unsafe_pickle:
        raise _no_model(choice)
    warn_unsafe(path)
    first_on_path(choice.folder or Path.cwd())  # the pickle names classes of the user's code
    content = read_pickle(path, unsafe=True)
    net = next((each for each in (content, _inside(content)) if isinstance(each, nn.Module)), None)
    if net is None:
        raise _no_model(choice)
    return Made(net, file_hash(path), choice.reference)


def _inside(content: Any) -> nn.Module | None:
    """Return the module in a dictionary that wraps one."""
    from torch import nn

    values = content.values() if isinstance(content, dict) else ()
    return next((value for value in values if isinstance(value, nn.Module)), None)


def _no_model(choice: ModelChoice) -> UsageError:
    return UsageError(
        f"{choice.reference} is no TorchScript: it holds tensors, or pickled objects.",
        "For tensors name the code: --model path/to/file.py:Name --checkpoint FILE. For a whole pickled model, which "
        "is a program: --unsafe-pickle, where you trust who made it.",
    )
