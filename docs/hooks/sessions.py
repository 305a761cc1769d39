"""For mkdocstrings: interactive sessions in docstrings become blocks of code; Markdown takes ">>>" for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SESSION = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with each of its sessions in a fence."""
    return _SESSION.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


class Sessions(griffe.Extension):
    """Fences the sessions of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """See `griffe.Extension`."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
