"""Answers to a shell that asks, on Tab, how a command line may go on.

Typer makes the scripts (`ismn --install-completion`) and asks for the names of a parameter; which names those are is
said here for every command at once, and only while a shell asks.
"""

from __future__ import annotations

import copy
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

if TYPE_CHECKING:
    from ismn_cli.cli.completion_names import Names

ASKED = "_ISMN_COMPLETE"
"""The variable by which a shell's script asks, with what: "complete_bash"."""
_SAFE = re.compile(r"[\w./~@%+,:-]+", re.ASCII)
_BREAKS = ":=@"
"""Characters at which bash takes a word apart. (COMP_WORDBREAKS)"""

Completer = Callable[[typer.Context, list[str], str], list[str]]


@contextmanager
def answering(app: typer.Typer) -> Iterator[None]:
    """While a shell asks, let ``app`` know the names; what it prints is made fit for that shell."""
    if ASKED not in os.environ:
        yield
        return
    bash = os.environ[ASKED] == "complete_bash" and "COMP_WORDS" in os.environ
    cut = _mend() if bash else ""
    for path, command in _commands(app):
        _complete(path, command)
    out = sys.stdout
    with redirect_stdout(io.StringIO()) as told:
        try:
            yield
        finally:
            out.write("".join(f"{line.removeprefix(cut)}\n" for line in told.getvalue().splitlines()))


def _mend() -> str:
    """Put together the words that bash took apart; return what it keeps before the last part of the current one."""
    given, at = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    words = given[:1]
    for word in given[1 : at + 1]:
        broken = word and not word.strip(_BREAKS)
        goes_on = words[-1][-1:] in _BREAKS and words[-1] and not word.startswith("-")
        if len(words) > 1 and (broken or goes_on):
            words[-1] += word
        else:
            words.append(word)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(len(words) - 1)
    return words[-1][: max(map(words[-1].rfind, _BREAKS)) + 1]


def _commands(app: typer.Typer, path: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in app.registered_commands:
        if command.callback:
            yield f"{path}{command.name}", command.callback
    for group in app.registered_groups:
        if group.typer_instance:
            yield from _commands(group.typer_instance, f"{path}{group.name} ")


def _complete(path: str, command: Callable[..., Any]) -> None:
    """Give the parameters of a command their names."""
    from ismn_cli.cli.completion_names import ONE, SOME

    for parameter, hint in get_type_hints(command, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        plain, *notes = get_args(hint)
        for table, kind in ((ONE, one), (SOME, some)):
            names = table.get(f"{path} {parameter}") or table.get(parameter)
            if names:
                notes = [_with(note, kind(*names)) for note in notes]
        command.__annotations__[parameter] = Annotated[plain, *notes]


def _with(note: Any, completer: Completer) -> Any:
    if not isinstance(note, OptionInfo | ArgumentInfo):
        return note
    note = copy.copy(note)
    note.autocompletion = completer
    return note


def one(*sources: Names) -> Completer:
    """Return what completes a value with one name of ``sources``."""

    def complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
        return _fit((name for names in sources for name in names(ctx, incomplete)), incomplete)

    return complete


def some(*sources: Names) -> Completer:
    """Return what completes the last of several names that are joined by commas."""

    def complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        there = before.split(",")
        left = (name for names in sources for name in names(ctx, last) if name not in there)
        return _fit((f"{before}{comma}{name}" for name in left), incomplete)

    return complete


def _fit(values: Iterable[str], incomplete: str) -> list[str]:
    """Return the values that go on from ``incomplete``. None has anything in it that a shell would act on."""
    return list(dict.fromkeys(v for v in values if v.startswith(incomplete) and _SAFE.fullmatch(v)))
