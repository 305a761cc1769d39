"""References looked at without running anybody's code: is there such a file or module, and such a name in it?"""

from __future__ import annotations

import ast
import difflib
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

MOST = 1_000_000
"""Bytes of a Python file that is read for its names."""


def reference_problem(reference: str, folder: Path | None = None) -> str | None:
    """Return in a few words why a reference cannot be right; None where it may be.

    Paths and packages are looked for in ``folder``, the current one unless given.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        return f"'{reference}' lacks a name; write path/to/file.py:Name or package.module:Name"
    if not place.endswith(".py"):
        return _module_problem(place, folder or Path.cwd())
    path = (folder or Path.cwd()) / Path(place).expanduser()
    if not path.is_file():
        return f"there is no file {place}"
    names = names_in(path)
    first = name.partition(".")[0]
    if names is None or first in names:
        return None
    near = difflib.get_close_matches(first, names, n=1, cutoff=0.5)
    told = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(sorted(names)) or 'nothing'}"
    return f"there is no '{first}' in {place}; {told}"


def _module_problem(place: str, folder: Path) -> str | None:
    top = place.partition(".")[0]
    if not top.isidentifier():
        return f"'{place}' is neither a Python file nor a module"
    if top in sys.modules or top in sys.builtin_module_names or PathFinder.find_spec(top, [str(folder), *sys.path]):
        return None
    return f"there is no module '{top}' here; is it installed, or in the current folder?"


def names_in(path: Path) -> set[str] | None:
    """Return what a Python file may bind at its top; None where that cannot be told by reading."""
    body = _parsed(path)
    names = set(_bound(body or ()))
    return None if body is None or names & {"*", "__getattr__"} else names


def defined_in(path: Path) -> list[str]:
    """Return the public functions and classes that a Python file defines at its top; none where it cannot be read."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n.name for n in _parsed(path) or () if isinstance(n, kinds) and not n.name.startswith("_")]


def _parsed(path: Path) -> list[ast.stmt] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the user's code, which is not run here
        try:
            return ast.parse(path.read_bytes()).body if path.stat().st_size <= MOST else None
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind, and more: those inside of if, try, with and loops; "*" for any."""
    for outer in body:
        whole = isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in [outer] if whole else ast.walk(outer):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Import | ast.ImportFrom):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
