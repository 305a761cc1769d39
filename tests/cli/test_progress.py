"""Progress for people: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import pytest
from rich.console import Console

from ismn_cli.cli import progress
from ismn_cli.cli.progress import LINE_EVERY, Display
from ismn_cli.engine.fit import Progress
from ismn_cli.stages.matrix import MatrixProgress


def test_lines_are_few_and_say_where_it_stands(small, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(1000))
    with Display(now=lambda: float(next(clock))) as display:
        for step in range(100):
            display.training(Progress("mapping", step // 50, 2, step % 50 + 1, 50, {"loss": 1 / (step + 1)}))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 + 98 // LINE_EVERY
    assert lines[0].startswith("mapping 1/2: 1/100, loss 1") and "left" not in lines[0]
    assert "left" in lines[1]
    assert lines[-1].startswith("mapping 2/2: 100/100") and "left" not in lines[-1]


def test_time_left_goes_by_the_work_where_it_is_known(small, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter((0.0, 100.0, 200.0, 300.0))
    with Display(now=lambda: next(clock)) as display:
        for done, share in ((50, 0.1), (100, 0.2), (150, 0.9), (200, 1.0)):
            display.matrix(MatrixProgress("cheap, then dear", done, 200, {}, share=share))
    told = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == ["50/200", "100/200, 800 s left", "150/200, 25 s left", "200/200"]


def test_every_stage_begins_and_ends_with_a_line(small, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(now=lambda: 0.0) as display:
        for stage in ("base", "mapping"):
            for step in range(5):
                display.training(Progress(stage, 0, 1, step + 1, 5, {}))
    assert capsys.readouterr().err.split("\n")[:4] == ["base: 1/5", "base: 5/5", "mapping: 1/5", "mapping: 5/5"]


def test_a_terminal_gets_a_bar_with_the_running_score(small, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    stream = StringIO()
    monkeypatch.setattr(progress, "people", lambda: Console(file=stream, force_terminal=True, width=150))
    with Display() as display:
        display.matrix(MatrixProgress("pgd 8/255 gray, ismn", 30, 60, {"survived": 20, "broken": 10}))
        display.matrix(MatrixProgress("pgd 8/255 gray, ismn", 60, 60, {"survived": 45, "broken": 15}))
    assert "60/60" in stream.getvalue() and "15 broken, 45 survived" in stream.getvalue()
