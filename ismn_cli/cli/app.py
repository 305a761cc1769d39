"""The command line: commands by name, and the one place where errors end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ismn_cli.cli import (
    attack,
    audit,
    ceiling,
    check,
    claims,
    compare,
    data,
    defend,
    doctor,
    export,
    gate,
    init,
    listing,
    plan,
    recipes,
    report,
    rerun,
    run,
    score,
    show,
    train,
)
from ismn_cli.cli.completion import answering
from ismn_cli.cli.console import listen, people, say, show_error
from ismn_cli.cli.options import examples
from ismn_cli.core.errors import CutError, UsageError
from ismn_cli.core.heap import keep_freed_memory
from ismn_cli.core.threads import wait_asleep
from ismn_cli.core.world import World, alone
from ismn_models.refusal import RefusalError

USAGE = 2
INTERRUPTED = 130
SILENCE = 1.0
"""Seconds that a process which has failed, and leaves it to another to say so, waits before it ends."""
SHARED = ("train", "run")
"""Commands that torchrun may start in several processes: trainings."""


class CtrlCError(Exception):
    """Ctrl-C, carried past Typer, which would turn it into a bare exit."""


class Commands(TyperGroup):
    """The commands, in the order in which they are used."""

    def invoke(self, ctx: Any) -> Any:
        """See `click.Group`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise CtrlCError from None


app = typer.Typer(
    name="ismn",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="How robust is this image classifier, with this defence, against an attacker who knows this much?",
    epilog=examples(
        "ismn run quickstart",
        "ismn train --dataset cifar10",
        "ismn attack --method pgd --eps 0.3",
        "ismn defend --defence ismn,magnet,ddsa",
        "ismn report --format markdown",
        "ismn audit",
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("ismn-cli")
        except PackageNotFoundError:
            found = "(not installed)"
        typer.echo(f"ismn {found}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    listen()
    one_of_many(context.invoked_subcommand or "")


def one_of_many(command: str) -> None:
    """Let one process speak where torchrun started several. Raises UsageError for what is the work of one."""
    world = World.here()
    if world.size > 1:
        people().quiet = world.rank > 0
    if command not in SHARED:
        alone(command)


for module in (
    train,
    attack,
    defend,
    report,
    run,
    plan,
    audit,
    doctor,
    init,
    check,
    ceiling,
    claims,
    gate,
    data,
    recipes,
    listing,
    compare,
    score,
    show,
    export,
    rerun,
):
    module.register(app)


def main() -> NoReturn:
    """Run the command line and exit.

    0; 1 where a check or a bar failed; 2 for what the user can put right; 3 for no verdict; 130 for Ctrl-C.
    """
    keep_freed_memory()
    wait_asleep()
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code. Errors are told on stderr."""
    code = _exit_code(arguments)
    if code and people().quiet:
        # torchrun ends the other processes as soon as one has failed: first the one that speaks of it.
        time.sleep(SILENCE)
    return code


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        with answering(app):
            app(list(arguments), prog_name="ismn")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (CtrlCError, KeyboardInterrupt):
        say("Interrupted. What is done is kept; to continue:")
        say(f"  {resuming(arguments)}")
        return INTERRUPTED
    except Exception as error:
        told = as_usage_error(error)
        if told is None:
            raise
        show_error(told)
        if isinstance(told, CutError):
            say(f"  {resuming(arguments)}")
        return USAGE
    return 0


def resuming(arguments: Sequence[str]) -> str:
    """Return the command that continues this one: the same, less what would begin it anew."""
    return shlex.join(["ismn", *(a for a in arguments if a != "--fresh")])


def as_usage_error(error: Exception) -> UsageError | None:
    """Return what to tell a person about ``error``; None if it is a fault of the program."""
    if isinstance(error, UsageError):
        return error
    if isinstance(error, RefusalError):
        return UsageError(error.message, error.hint)
    if isinstance(error, OSError):
        place = f" '{error.filename}'" if error.filename else ""
        return UsageError(
            f"The system refused{place}: {error.strerror or error}.",
            "Check the disk's space and who may write.",
        )
    if isinstance(error, MemoryError) or _out_of_memory(error):
        return UsageError("Memory ran out.", "Use a smaller batch size, or --device cpu.")
    if type(error).__module__.startswith("pydantic"):
        return UsageError(" ".join(str(error).split()), "Check the values given.")
    return None


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    named = type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and ("out of memory" in text or "allocate memory" in text))
