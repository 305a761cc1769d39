"""Pictures in a terminal: whole figures where it has a protocol for them, else half blocks in colour."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.text import Text

    from ismn_cli.core.lives import Life, Picture

KITTY = ("xterm-kitty", "xterm-ghostty")
ITERM = ("iTerm.app", "WezTerm")
CHUNK = 4096
"""Bytes of a figure that Kitty takes in one escape sequence."""
WIDEST, NARROWEST = 32, 12
"""Characters that a picture of half blocks is wide."""


def protocol(environment: Mapping[str, str]) -> Literal["kitty", "iterm"] | None:
    """Return the protocol for pictures that a terminal with this environment has; None where it is not known."""
    term = environment.get("TERM", "")
    if environment.get("TMUX") or term.startswith(("screen", "tmux")):
        return None  # they hand nothing of it on
    if term in KITTY or environment.get("KITTY_WINDOW_ID"):
        return "kitty"
    return "iterm" if environment.get("TERM_PROGRAM") in ITERM else None


def draw_life(life: Life, pictures: Sequence[Picture], figure: Callable[[], bytes]) -> None:
    """Draw a life on stdout, which is a terminal. ``figure`` gives it whole, as a PNG."""
    how = protocol(os.environ)
    if how is None:
        _half_blocks(life, pictures)
        return
    sys.stdout.write("".join(kitty(figure()) if how == "kitty" else iterm(figure())) + "\n")
    sys.stdout.flush()


def kitty(png: bytes) -> Iterator[str]:
    """Yield the escape sequences of the Kitty graphics protocol."""
    text = base64.standard_b64encode(png).decode()
    for start in range(0, len(text), CHUNK):
        head = "a=T,f=100," if start == 0 else ""
        more = int(start + CHUNK < len(text))
        yield f"\x1b_G{head}m={more};{text[start : start + CHUNK]}\x1b\\"


def iterm(png: bytes) -> Iterator[str]:
    """Yield the escape sequence of iTerm2's inline images."""
    yield f"\x1b]1337;File=inline=1;size={len(png)}:{base64.standard_b64encode(png).decode()}\x07"


def _half_blocks(life: Life, pictures: Sequence[Picture]) -> None:
    """Draw the pictures and what has changed in them, so many beside each other as the terminal is wide."""
    from rich.console import Console
    from rich.table import Table

    from ismn_cli.reporting.life_figure import changes
    from ismn_cli.reporting.table import one_line

    console = Console(highlight=False)
    if console.color_system is None:
        return
    shown = [(one_line(step.name), picture) for step, picture in zip(life.steps, pictures, strict=True)]
    shown += changes(pictures)
    columns = max(1, min(len(pictures), (console.width + 1) // (NARROWEST + 1)))
    width = max(2, min(WIDEST, pictures[0].shape[-1], console.width // columns - 1))
    for start in range(0, len(shown), columns):
        grid = Table.grid(padding=(0, 1, 0, 0))
        part = shown[start : start + columns]
        grid.add_row(*(_caption(name, width) for name, _ in part))
        grid.add_row(*(half_blocks(picture, width) for _, picture in part))
        console.print(grid)


def _caption(name: str, width: int) -> Text:
    from rich.text import Text

    caption = Text(name)
    caption.truncate(width, overflow="ellipsis", pad=True)
    return caption


def half_blocks(picture: Picture, width: int) -> Text:
    """Return [C, H, W] in [0, 1] as lines of ``width`` characters, each the upper one of two pixels on the lower."""
    import numpy as np
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    pixels = (np.nan_to_num(picture.astype("float32")).clip(0, 1) * 255).round().astype("uint8")
    whole = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    size = (width, width + width % 2)
    small = np.asarray(Image.fromarray(np.ascontiguousarray(whole)).resize(size, Image.Resampling.BOX))
    text = Text(no_wrap=True)
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    text.rstrip()
    return text
