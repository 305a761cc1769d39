"""What `ismn train` says at the end about few or uneven classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ismn_cli.cli.train import _tell

TEST = {"clean accuracy": 0.75, "balanced accuracy": 0.625, "images": 200.0}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"classes": 2.0, "majority-class rate": 0.7}, True),
        ({"classes": 2.0, "majority-class rate": 0.5}, True),
        ({"classes": 10.0, "majority-class rate": 0.2}, True),
        ({"classes": 10.0, "majority-class rate": 0.1}, False),
        ({}, False),  # a run of an earlier version
    ],
)
def test_the_closing_lines(capsys: pytest.CaptureFixture[str], figures: dict[str, float], said: bool) -> None:
    record: Any = SimpleNamespace(figures={"test": TEST | figures}, notes=(), id="train-x")
    _tell(record, Path("runs"))
    told = " ".join("".join(capsys.readouterr()).split())
    assert "clean accuracy: 75.0% of 200 test images" in told
    assert ("balanced accuracy: 62.5%" in told) == said
    if said:
        rate = f"{figures['majority-class rate']:.1%}"
        assert f"always answering the most frequent class gives a clean accuracy of {rate}" in told
