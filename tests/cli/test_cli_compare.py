"""`ismn compare`: two runs of the small world, in every format, refused with a reason, without torch."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from ismn_cli.core.store import Store
from ismn_cli.reporting.render import FORMATS

pytestmark = pytest.mark.usefixtures("small")


def attack(ismn, *arguments: str) -> str:
    ended = ismn("attack", "--dataset", "cifar10", "--method", "pgd", *arguments)
    assert ended.code == 0, ended.err
    return next(line for line in ended.err.splitlines() if line.startswith("run:")).rsplit("/", 1)[1]


@pytest.fixture
def runs(ismn) -> tuple[str, str]:
    assert ismn("train", "--system", "classifier").code == 0
    return attack(ismn, "--eps", "0.2"), attack(ismn, "--eps", "0.2", "--param", "alpha=0.001", "--seed", "4")


def test_flips_are_those_of_the_stored_answers(ismn, store: Store, runs: tuple[str, str]) -> None:
    ended = ismn("compare", *runs, "--format", "csv")
    assert ended.code == 0, ended.err
    row = next(r for r in csv.DictReader(io.StringIO(ended.out)) if r["attack"] == "pgd")
    cells = [store.cell(store.run(run).record.cells[1]) for run in runs]
    right = [[a == y for a, y in zip(c.attacked.predicted, c.labels, strict=True)] for c in cells]
    ids = [[i for i, pair in zip(cells[0].ids, zip(*right, strict=True), strict=True) if pair == way]
           for way in ((True, False), (False, True))]  # fmt: skip
    assert [json.loads(row["only_first_ids"]), json.loads(row["only_second_ids"])] == ids
    assert ids[0] or ids[1], "the small world shows no flip: the test would compare nothing"
    assert "alpha 0.05 and 0.001" in row["settings_differ"] and "seed 0 and 4" in row["settings_differ"]


def test_every_format_is_written(ismn, runs: tuple[str, str], tmp_path) -> None:
    for form in FORMATS:
        ended = ismn("compare", *runs, "--format", form)
        assert ended.code == 0, ended.err
        assert runs[0] in ended.out
        assert ismn("compare", *runs, "--format", form, "-o", str(tmp_path / form)).code == 0
        assert (tmp_path / form).stat().st_size > 100


def test_other_images_and_sizes_are_refused_together(ismn, runs: tuple[str, str]) -> None:
    other = attack(ismn, "--eps", "0.1", "--limit", "12", "--knowledge", "white")
    ended = ismn("compare", runs[0], other)
    assert ended.code == 2 and not ended.out
    for reason in ("images differ (60 and 12)", "sizes differ (0.2 and 0.1)", "levels differ (gray and white)"):
        assert reason in ended.err
    assert "hint: Repeat the second like the first: ismn attack" in ended.err and "--eps 0.2" in ended.err


def test_what_is_typed_after_a_refusal_makes_them_comparable(ismn, store: Store, runs: tuple[str, str]) -> None:
    import shlex

    other = attack(ismn, "--eps", "0.1")
    hint = next(line for line in ismn("compare", runs[0], other).err.splitlines() if line.startswith("hint: "))
    again = ismn(*shlex.split(hint.split("ismn ", 1)[1]))
    assert again.code == 0, again.err
    assert store.run("latest").record.id != other
    assert ismn("compare", runs[1], "latest").code == 0


def test_names_and_kinds_that_cannot_be_compared(ismn, store: Store, runs: tuple[str, str]) -> None:
    assert "given twice" in ismn("compare", runs[0], runs[0]).err
    assert "no run called" in ismn("compare", runs[0], "nope").err
    assert "no report format called 'mrkdown'" in ismn("compare", *runs, "--format", "mrkdown").err
    training = next(run.record.id for run in store.runs() if run.record.kind == "train")
    assert "It is a training" in ismn("compare", runs[0], training).err


def test_it_starts_without_torch(runs: tuple[str, str], small) -> None:
    code = (
        "import sys\nfrom ismn_cli.cli.app import exit_code\n"
        f"code = exit_code(['compare', {runs[0]!r}, {runs[1]!r}])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "what flipped" in done.stdout
