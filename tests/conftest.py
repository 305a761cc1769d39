"""Tests run side by side, one process a core: each takes one thread, and the README's commands begin first."""

from __future__ import annotations

import os

import pytest

# Before torch is imported. Child processes take it over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The commands that tests start keep their bytecode, as a user's do: compiling it anew would be most of a short one.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
LONGEST = "test_readme.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the file that takes longest first: what comes last would be waited for."""
    items.sort(key=lambda item: item.path.name != LONGEST)
