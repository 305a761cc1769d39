"""Models of the user's own: path/to/file.py:attr or package.module:attr, built, loaded and normalised."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from ismn_cli.core.errors import UsageError
from ismn_cli.stages.checkpoints import load_checkpoint

if TYPE_CHECKING:
    from torch import nn

Value = TypeVar("Value")
FORMS = "Write it as path/to/file.py:Name or package.module:Name, for a class, a function or a model."


@dataclass(frozen=True)
class UserModel:
    """How to make a model: what a command line says of it."""

    reference: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Of each channel, or one number for all, in pixels of [0, 1]; both or neither."""


def is_reference(name: str) -> bool:
    """Return whether ``name`` refers to something of the user's own, not to a built-in by its name."""
    return ":" in name or name.endswith(".py") or "/" in name


def load_user_model(wanted: UserModel, channels: int) -> nn.Module:
    """Return the model on the CPU, its checkpoint loaded, behind its normalisation for images of ``channels``.

    What ismn builds from a class is in evaluation mode; what a function or a module gives is as it was given.
    Raises UsageError: nothing there of that name, the user's code fails, the checkpoint does not fit.
    """
    from ismn_cli.engine.normalised import Normalised

    _check_normalisation(wanted, channels)
    model = _built(load_attribute(wanted.reference), wanted)
    if wanted.checkpoint is not None:
        load_checkpoint(model, wanted.checkpoint)
    return Normalised(model, wanted.mean, wanted.std) if wanted.mean else model


def load_attribute(reference: str) -> Any:
    """Import what a reference names, the current folder first on the path. Raises UsageError."""
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UsageError(f"'{reference}' does not say which model.", _hint(place or name))
    module = _imported(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"There is no '{name}' in {place}.", _offer(module, name))
        found = getattr(found, part)
    return found


def _hint(place: str) -> str:
    """Return what to write, with the names in the file where it is one."""
    if place.endswith(".py") and Path(place).is_file():
        names = _models_in(_imported(place))
        return f"Write {place}:NAME. It has: {', '.join(names)}." if names else FORMS
    return FORMS


def _offer(module: ModuleType, name: str) -> str:
    names = _models_in(module)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"Did you mean '{near[0]}'? " if near else "") + f"It has: {', '.join(names) or 'no models'}."


def _models_in(module: ModuleType) -> list[str]:
    """Return the names of what the module itself defines that may be a model or make one."""
    from torch import nn

    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    made = [
        name
        for name, value in own.items()
        if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__)
    ]
    return sorted(made)


def _imported(place: str) -> ModuleType:
    _first_on_path(Path.cwd())
    if not place.endswith(".py"):
        if "/" in place:
            raise UsageError(f"'{place}' is neither a Python file nor a module.", FORMS)
        return _running(place, lambda: importlib.import_module(place))
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"There is no file {place}.", "The path is taken from the current folder.")
    _first_on_path(path.parent)
    return _running(place, lambda: _from_file(path))


def _first_on_path(folder: Path) -> None:
    """Put ``folder`` first where Python looks for modules, as it is for a script that lies there."""
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path.insert(0, text)


def _from_file(path: Path) -> ModuleType:
    name = f"_ismn_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up there
    spec.loader.exec_module(module)
    return module


def _running(what: str, code: Callable[[], Value]) -> Value:
    """Run the user's code; what it raises is theirs to put right."""
    try:
        return code()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} fails: {_told(error)}", _where(error, what)) from error


def _told(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _where(error: BaseException, what: str) -> str:
    import traceback

    if isinstance(error, ModuleNotFoundError):
        return f"Is '{error.name}' installed here, or in the current folder ({os.curdir}, {Path.cwd()})?"
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return f"It happens in {last.filename}, line {last.lineno}." if last else f"Try it in Python: {what}."


def _built(found: Any, wanted: UserModel) -> nn.Module:
    from torch import nn

    model: Any = found
    if isinstance(model, nn.Module):
        if wanted.arguments:
            raise UsageError(
                f"{wanted.reference} is a model already: --model-arg would change nothing.",
                "Leave --model-arg away, or name the class.",
            )
        return model
    if not callable(found):
        raise UsageError(f"{wanted.reference} is a {type(found).__name__}, not a model.", FORMS)
    _check_arguments(found, wanted)
    model = _running(f"{wanted.reference}({_written(wanted.arguments)})", lambda: found(**wanted.arguments))
    if not isinstance(model, nn.Module):
        raise UsageError(f"{wanted.reference} gives a {type(model).__name__}, not a torch module.", FORMS)
    if isinstance(found, type):
        model.eval()
    return model


def _check_arguments(found: Any, wanted: UserModel) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**wanted.arguments)
    except TypeError as error:
        raise UsageError(
            f"{wanted.reference} cannot be called like that: {error}.",
            f"It takes {signature}. Write --model-arg KEY=VALUE for each.",
        ) from None


def _written(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _check_normalisation(wanted: UserModel, channels: int) -> None:
    if bool(wanted.mean) != bool(wanted.std):
        raise UsageError("--mean and --std belong together.", "Write both, such as --mean 0.5 --std 0.5.")
    for name, values in (("--mean", wanted.mean), ("--std", wanted.std)):
        if len(values) not in (0, 1, channels):
            raise UsageError(f"{name} has {len(values)} numbers for {channels} channels.", "Write one a channel.")
        if not all(0 <= value <= 1 for value in values) or (name == "--std" and 0 in values):
            raise UsageError(
                f"{name} {','.join(f'{value:g}' for value in values)} is not of pixels in [0, 1].",
                "Divide numbers of 0 to 255 by 255; a model that takes pixels of 0 to 255 has "
                "--mean 0 --std 0.0039216.",
            )
