"""`ismn show`: what is worth it, one life in the terminal and as a file, and what to type where that fails."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ismn_cli.cli import show, terminal_picture
from ismn_cli.cli.terminal_picture import half_blocks, iterm, kitty, protocol
from ismn_cli.core.lives import read_album
from ismn_cli.core.store import Store

RECIPE = """
name: lives
dataset: {name: cifar10-mini}
defence: [none, ismn, magnet]
knowledge: [gray, white]
attack: {method: [fgsm, pgd], eps: [0.1, 0.3]}
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for the store of the small matrix, which is made once."""
    return tmp_path_factory.mktemp("kept") / "home"


@pytest.fixture
def matrix(ismn, store: Store, tmp_path: Path, kept: Path) -> str:
    """Put a small matrix into the store; return its id."""
    if kept.exists():
        shutil.copytree(kept, store.root, dirs_exist_ok=True)
    else:
        _make(ismn, store, tmp_path)
        shutil.copytree(store.root, kept)
    return store.run("latest").record.id


def _make(ismn, store: Store, tmp_path: Path) -> None:
    assert ismn("train", "--system", "classifier").code == 0
    base = store.run("latest").record.id
    for system in ("ismn", "magnet"):
        assert ismn("train", "--system", system, "--classifier", base).code == 0
    (tmp_path / "lives.yaml").write_text(RECIPE)
    assert ismn("run", str(tmp_path / "lives.yaml")).code == 0


def first_sample(out: str) -> str:
    return re.search(r"\d+: (\d+) ", out)[1]


def test_a_life_is_listed_drawn_and_told(ismn, store: Store, matrix: str, tmp_path: Path) -> None:
    listed = ismn("show", "latest")
    assert listed.code == 0, listed.err
    assert {"none", "ismn", "magnet"} <= set(listed.out.split()) and "broken" in listed.out
    assert "red" in listed.out or "green" in listed.out or "blue" in listed.out
    (typed,) = re.findall(r"next: +ismn (.*)", listed.err)
    shown = ismn(*typed.split())
    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out and "▀" not in shown.out, "not a terminal"
    assert "adversarial" in shown.out and "regenerated" not in shown.out
    figure = Path(re.search(r"figure: (.*)", shown.err)[1])
    assert figure.parent == store.run(matrix).folder and Image.open(figure).width > 400
    for form, head in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")):
        assert ismn(*typed.split(), "-o", str(tmp_path / "new" / f"life.{form}")).code == 0
        assert (tmp_path / "new" / f"life.{form}").read_bytes().startswith(head)


def test_options_choose_the_cell(ismn, store: Store, matrix: str) -> None:
    sample = first_sample(ismn("show", matrix).out)
    for defence, method, level, eps in (("magnet", "fgsm", "white", "0.3"), ("ismn", "pgd", "gray", "0.1")):
        asked = ["--defence", defence, "--method", method, "--knowledge", level, "--eps", eps]
        told = ismn("show", matrix, sample, *asked)
        assert told.code == 0 and f"{defence} under {level} {method} {eps}" in told.out
        assert "cells fit" not in told.err
        (line,) = [line for line in ismn("show", matrix, *asked).out.splitlines() if method in line]
        assert line.split()[0] == defence
    undefended = ismn("show", matrix, sample, "--knowledge", "gray")
    assert "none under" not in undefended.out and "4 cells fit" not in undefended.err


def test_every_outcome_that_is_listed_is_the_stored_one(ismn, store: Store, matrix: str) -> None:
    album = read_album(store.run(matrix).folder)
    for life in album.lives.lives[:4]:
        cell = store.cell(life.cell).cell
        told = ismn(
            "show", matrix, str(life.id), "--defence", cell.defence.name, "--method", cell.attack.method,
            "--knowledge", cell.knowledge, "--eps", str(cell.attack.threat.eps),
        )  # fmt: skip
        assert f", {life.outcome}" in told.out and "asked again" not in told.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["latset"], "no run called 'latset'"),
        (["latest", "99999"], "no sample 99999"),
        (["latest", "--defence", "magnt"], "Did you mean 'magnet'"),
        (["latest", "--method", "pdg"], "Did you mean 'pgd'"),
        (["latest", "--knowledge", "grey"], "Did you mean 'gray'"),
        (["latest", "--eps", "0.2"], "Known: 0.1, 0.3"),
        (["latest", "--eps", "8"], "outside"),
        (["latest", "3", "-o", "life.gif"], "life.png, life.svg or life.pdf"),
        (["latest", "3", "-o", "life"], "life.png, life.svg or life.pdf"),
        (["latest", "-o", "life.png"], "none was named"),
    ],
)
def test_errors_say_what_to_type(ismn, matrix: str, arguments: list[str], says: str) -> None:
    ended = ismn("show", *arguments)
    assert ended.code == 2 and says in ended.err and "Traceback" not in ended.err


def test_runs_without_lives_are_refused(ismn, store: Store, matrix: str) -> None:
    trained = next(run.record.id for run in store.runs() if run.record.kind == "train")
    assert "no attacked cells" in ismn("show", trained).err
    assert ismn("train", "--system", "classifier", "--seed", "2").code == 0
    assert matrix in ismn("show", "latest").out, "the latest with lives"
    shutil.rmtree(store.root / "cells")
    assert "no attacked cells" in ismn("show", matrix).err
    shutil.rmtree(store.root / "runs" / matrix)
    assert "no run with attacks" in ismn("show", "latest").err


def test_no_other_weights_are_used(ismn, store: Store, matrix: str) -> None:
    """A newer training of the same system is not the one that was measured."""
    sample = first_sample(ismn("show", matrix).out)
    trained = {run.record.recipe["system"]: run for run in store.runs() if run.record.kind == "train"}
    old, base = trained["magnet"], trained["classifier"]
    newer = ismn("train", "--system", "magnet", "--classifier", base.record.id, "--seed", "1")
    assert newer.code == 0
    assert ismn("show", matrix, sample, "--defence", "magnet").code == 0
    shutil.rmtree(old.folder)
    ended = ismn("show", matrix, sample, "--defence", "magnet")
    wanted = next(
        cell.defence.weights for key in store.run(matrix).record.cells
        if (cell := store.cell(key).cell).defence.name == "magnet"
    )  # fmt: skip
    assert ended.code == 2 and wanted in ended.err and "not used in their place" in ended.err
    assert ismn("show", matrix, sample, "--defence", "ismn").code == 0


def test_a_listing_takes_hostile_names(ismn, store: Store, matrix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_cli.core.lives.read_album", lambda folder: None)
    assert "class 1" in ismn("show", matrix).out
    assert show._name(["[red]x\n\x1b[2J"], 0) == "[red]x [2J"
    assert len(show._name(["w" * 999], 0)) == show.LONGEST and show._name([], -1) == "no answer"


def test_in_a_terminal_it_is_drawn(ismn, matrix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = first_sample(ismn("show", matrix).out)
    drawn: list[str] = []
    monkeypatch.setattr(show, "sys", type("Tty", (), {"stdout": type("Out", (), {"isatty": lambda: True})}))
    monkeypatch.setattr(terminal_picture, "_half_blocks", lambda life, pictures: drawn.append("blocks"))
    for name in ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    for term, wanted in (("xterm", "blocks"), ("xterm-kitty", "\x1b_Ga=T,f=100,")):
        monkeypatch.setenv("TERM", term)
        ended = ismn("show", matrix, sample)
        assert ended.code == 0 and wanted in (*drawn, *re.findall("\x1b_Ga=T,f=100,", ended.out))


def test_protocols() -> None:
    assert protocol({"TERM": "xterm-kitty"}) == protocol({"KITTY_WINDOW_ID": "1"}) == "kitty"
    assert protocol({"TERM_PROGRAM": "iTerm.app"}) == protocol({"TERM_PROGRAM": "WezTerm"}) == "iterm"
    for other in ({}, {"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, {"TMUX": "x", "TERM": "xterm-kitty"}):
        assert protocol(other) is None


@pytest.mark.parametrize("size", [0, 1, 3071, 3072, 3073, 9000])
def test_escape_sequences_hold_the_whole_figure(size: int) -> None:
    import base64

    content = bytes(i % 251 for i in range(size))
    parts = [re.fullmatch("\x1b_G(.*?)m=([01]);(.*)\x1b\\\\", part, re.DOTALL) for part in kitty(content)]
    assert base64.b64decode("".join(part[3] for part in parts)) == content
    assert [part[2] for part in parts] == ["1"] * (len(parts) - 1) + ["0"] * bool(parts)
    assert all(len(part[3]) <= 4096 for part in parts) and not any(part[1] for part in parts[1:])
    (whole,) = iterm(content)
    assert base64.b64decode(whole[whole.index(":") + 1 : -1]) == content and f"size={size}" in whole


@pytest.mark.parametrize("channels", [1, 3])
def test_half_blocks_are_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 4, 4)).astype(np.float32) / 255
    text = half_blocks(pixels, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀"
    whole = np.broadcast_to(np.round(pixels * 255).astype(int), (3, 4, 4))
    for i, span in enumerate(text.spans):
        row, column = 2 * (i // 4), i % 4
        assert tuple(span.style.color.triplet) == tuple(whole[:, row, column])
        assert tuple(span.style.bgcolor.triplet) == tuple(whole[:, row + 1, column])


@pytest.mark.parametrize("width", [10, 40, 100, 300])
def test_pictures_fit_the_terminal(width: int, matrix: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    import rich.console

    out = StringIO()
    made = Console(file=out, width=width, force_terminal=True, color_system="truecolor", highlight=False)
    monkeypatch.setattr(rich.console, "Console", lambda **_: made)
    album = read_album(store.run(matrix).folder)
    terminal_picture._half_blocks(album.lives.lives[0], album.pictures[0])
    plain = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue())
    assert "▀" in plain and max(map(len, plain.splitlines())) <= width


def test_listing_needs_no_torch(matrix: str, store: Store) -> None:
    import subprocess

    code = (
        "import sys; from ismn_cli.cli.app import exit_code; "
        "code = exit_code(['show', 'latest']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
