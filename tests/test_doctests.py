"""What the docstrings of the public API show is what happens."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from ismn_cli.stages import resolve

PUBLIC = (
    "ismn_cli.api.attack",
    "ismn_cli.api.evaluate",
    "ismn_cli.testing.attacks",
    "ismn_cli.testing.datasets",
    "ismn_cli.testing.defences",
    "ismn_cli.testing.models",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISMN_HOME", str(tmp_path))
    monkeypatch.setattr(resolve, "released_folder", lambda: tmp_path)  # attacks are not tested on it first: seconds
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
