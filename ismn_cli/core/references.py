"""What the user names: path/to/file.py:attr, package.module:attr, or the name of an installed plug-in.

One grammar for models, defences, attacks, data sets and trackers. A built-in name has neither ":" nor "/", and is
looked up before plug-ins are. Importing runs the user's code; what that raises becomes an error to act on.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from ismn_cli.core.errors import UsageError, unknown_name

Value = TypeVar("Value")
Kind = Literal["model", "defence", "attack", "dataset", "tracker"]
GROUPS: Mapping[str, str] = {
    "model": "ismn.models",
    "defence": "ismn.defences",
    "attack": "ismn.attacks",
    "dataset": "ismn.datasets",
}
"""The group of entry points under which an installed package offers things of a kind."""
WORDS: Mapping[str, str] = {"dataset": "data set"}
"""How a kind is called in a sentence, where not as it is."""
_USER = "_ismn_user_"
"""How the names of modules begin that are the user's files."""


def is_reference(name: str) -> bool:
    """Return whether ``name`` refers to something of the user's own, not to something known by its name."""
    return ":" in name or name.endswith(".py") or "/" in name


def plugins(kind: Kind) -> dict[str, str]:
    """Return the installed plug-ins of a kind: {name: "package.module:attr"}. Nothing of theirs is imported."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in sorted(entry_points(group=GROUPS[kind]))} if kind in GROUPS else {}


def referred(kind: Kind, name: str, known: Iterable[str]) -> str:
    """Return the reference that ``name`` stands for: itself, or a plug-in's.

    ``known`` are the built-in names, to suggest from. Raises UsageError: neither a reference nor a plug-in's name.
    """
    if is_reference(name):
        return name
    found = plugins(kind)
    if name not in found:
        raise unknown_name(WORDS.get(kind, kind), name, {*known, *found})
    return found[name]


def load_attribute(reference: str, kind: Kind = "model", folder: Path | None = None) -> Any:
    """Import what a reference names, ``folder`` (the current one unless given) first on the path. Raises UsageError."""
    place, _, name = reference.rpartition(":")
    if not place or not name:
        word = WORDS.get(kind, kind)
        raise UsageError(f"'{reference}' does not say which {word}.", _hint(place or name, kind, folder))
    module = _imported(place, kind, folder)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"There is no '{name}' in {place}.", _offer(module, name))
        found = getattr(found, part)
    return found


def source_hash(found: Any) -> str:
    """Return the sha256 of the file in which ``found`` is defined, empty where it is in none.

    It is part of the identity of what the user's code gives: changed code is another defence or attack.
    """
    for thing in (found, type(found)):
        try:
            file = inspect.getsourcefile(inspect.unwrap(thing))
        except TypeError:
            continue
        if file and Path(file).is_file():
            return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return ""


def code_hash(reference: str, kind: Kind = "model", folder: Path | None = None) -> str:
    """Return the sha256 over the file that a reference names and the user's other files that it imports.

    Those are looked for beside it and in ``folder``, by reading, not by running; what is installed is not followed.
    """
    from modulefinder import ModuleFinder

    place = reference.rpartition(":")[0]
    own = source_hash(_imported(place, kind, folder))
    root = (folder or Path.cwd()).resolve()
    try:
        if place.endswith(".py"):
            path = _inside(folder, place).resolve()
            finder = ModuleFinder([str(path.parent), str(root)])
            finder.run_script(str(path))
        else:
            finder = ModuleFinder([str(root), *_home(place)])
            finder.import_hook(place)
    except (ImportError, SyntaxError, ValueError):  # installed elsewhere, or not to be read: its own file will do
        return own
    named = (getattr(module, "__file__", None) for module in finder.modules.values())
    files = {Path(file) for file in named if file}
    read = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file())
    return hashlib.sha256("\n".join([own, *read]).encode()).hexdigest()


def _home(place: str) -> list[str]:
    """Return the folder that holds an imported package, unless it is among the installed ones."""
    file = getattr(sys.modules.get(place.partition(".")[0]), "__file__", None)
    if file is None:
        return []
    folder = Path(file).resolve().parent
    folder = folder.parent if Path(file).stem == "__init__" else folder
    return [] if {"site-packages", "dist-packages"} & set(folder.parts) else [str(folder)]


def called(reference: str, found: Callable[..., Value], arguments: Mapping[str, Any], option: str) -> Value:
    """Call what a reference names with the user's arguments.

    Raises UsageError: it takes other arguments (``option`` gives them: "--model-arg"), or what it raises.
    """
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        signature = None
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise UsageError(
                f"{reference} cannot be called like that: {error}.",
                f"It takes {signature}. Write {option} KEY=VALUE for each.",
            ) from None
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return running(f"{reference}({written})", lambda: found(**arguments))


def running(what: str, code: Callable[[], Value]) -> Value:
    """Run the user's code; what it raises is theirs to put right."""
    try:
        return code()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} fails: {_told(error)}", _where(error, what)) from error


def form(kind: Kind) -> str:
    """Return how to write a reference to something of a kind."""
    word = WORDS.get(kind, kind)
    return f"Write it as path/to/file.py:Name or package.module:Name: a {word}, or a class or function that makes one."


def _hint(place: str, kind: Kind, folder: Path | None) -> str:
    """Return what to write, with the names in the file where it is one."""
    if place.endswith(".py") and _inside(folder, place).is_file():
        names = _offered(_imported(place, kind, folder))
        return f"Write {place}:NAME. It has: {', '.join(names)}." if names else form(kind)
    return form(kind)


def _offer(module: ModuleType, name: str) -> str:
    names = _offered(module)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"Did you mean '{near[0]}'? " if near else "") + f"It has: {', '.join(names) or 'nothing of its own'}."


def _offered(module: ModuleType) -> list[str]:
    """Return the names of what the module itself defines that can be called, instances too."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    here = module.__name__

    def offered(value: Any) -> bool:
        made_here = getattr(value, "__module__", "") == here
        return callable(value) and (made_here or not (isinstance(value, type) or inspect.isroutine(value)))

    return sorted(name for name, value in own.items() if offered(value))


def _inside(folder: Path | None, place: str) -> Path:
    return (folder or Path.cwd()) / Path(place).expanduser()


def _imported(place: str, kind: Kind, folder: Path | None) -> ModuleType:
    first_on_path(folder or Path.cwd())
    if not place.endswith(".py"):
        if "/" in place:
            raise UsageError(f"'{place}' is neither a Python file nor a module.", form(kind))
        return running(place, lambda: importlib.import_module(place))
    path = _inside(folder, place).resolve()
    if not path.is_file():
        where = f"from {folder}" if folder else "from the current folder"
        raise UsageError(f"There is no file {place}.", f"The path is taken {where}.")
    first_on_path(path.parent)
    return running(place, lambda: _from_file(path))


def files_in_use() -> dict[str, str]:
    """Return the user's files that are imported, by the names that the modules have."""
    return {name: str(module.__file__) for name, module in sys.modules.items() if name.startswith(_USER)}


def import_file(name: str, file: str) -> None:
    """Import one of the `files_in_use` of another process. Raises UsageError: it is not here, or another one is."""
    path = Path(file)
    found = running(file, lambda: _from_file(path)).__name__ if path.is_file() else ""
    if found != name:
        told = "is another file" if found else "is missing"
        raise UsageError(f"{file} {told} on {platform.node()}.", "Put your code where all nodes see it.")


def first_on_path(folder: Path) -> None:
    """Put ``folder`` first where Python looks for modules, as it is for a script that lies there."""
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path.insert(0, text)


def _from_file(path: Path) -> ModuleType:
    # By content: the same file is the same module, and a changed one, or another of that name, is not.
    digest = hashlib.sha256(f"{path}\n".encode() + path.read_bytes()).hexdigest()
    name = f"{_USER}{path.stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


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
