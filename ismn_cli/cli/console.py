"""The terminal: stderr for people, stdout for results. The only place that draws."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import TYPE_CHECKING

from ismn_cli.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ismn_cli.reporting.table import Report


@cache
def people() -> Console:
    """Return the console on stderr; progress bars and lines share it, so that neither breaks the other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """Write one line to stderr, as it is: no markup, no wrapping."""
    from rich.text import Text

    people().print(Text(text, style=style), soft_wrap=True)


def note(text: str) -> None:
    """Write a remark to stderr."""
    say(f"note: {text}", "dim")


def show_error(error: UsageError) -> None:
    """Write an error and its hint to stderr."""
    say(f"error: {error.message}", "bold red")
    if error.hint:
        say(f"hint: {error.hint}")


def result(text: str) -> None:
    """Write a result to stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show(report: Report) -> None:
    """Draw a report on stdout."""
    from ismn_cli.reporting.render import render

    draw(render(report, "rich"))


def draw(drawing: RenderableType) -> None:
    """Draw what Rich can draw on stdout."""
    from rich.console import Console

    Console(highlight=False).print(drawing)


@contextmanager
def results_apart() -> Iterator[None]:
    """Send what is printed meanwhile to stderr: what the user's code prints is no result."""
    with redirect_stdout(sys.stderr):
        yield


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Draw a table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(head):
        # The first is a name to be typed or copied: whole, on one line.
        drawn.add_column(name, overflow="fold", no_wrap=i == 0)
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console().print(drawn)


class _Lines(logging.Handler):
    """Warnings of the house, a line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning" if record.levelno >= logging.WARNING else "note"
        say(f"{prefix}: {record.getMessage()}", "yellow" if prefix == "warning" else "dim")


def listen() -> None:
    """Send the house's log to stderr."""
    for name in ("ismn", "ismn_cli"):
        log = logging.getLogger(name)
        if not any(isinstance(handler, _Lines) for handler in log.handlers):
            log.addHandler(_Lines())
            log.setLevel(logging.INFO)
            log.propagate = False
