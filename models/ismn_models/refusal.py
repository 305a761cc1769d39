"""What a training cannot do, and what to do about it. No torch here: the harness tells it to the person."""

from __future__ import annotations


class RefusalError(Exception):
    """Something for the person who trains to put right: what is the matter, and what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint
