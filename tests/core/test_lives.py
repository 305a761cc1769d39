"""Albums: what is written is read; what is torn or hostile is no album, and no error either."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from ismn_cli.core.lives import LIVES, NO_ANSWER, Album, Life, Lives, Step, read_album, write_album

NAMES = st.text(max_size=12)
NUMBERS = st.floats()


@st.composite
def albums(draw: st.DrawFn) -> Album:
    classes = tuple(draw(st.lists(NAMES, min_size=1, max_size=4)))
    shape = draw(st.sampled_from([(1, 2, 3), (3, 4, 4)]))
    lives, pictures = [], []
    for _ in range(draw(st.integers(0, 3))):
        steps = draw(st.integers(2, 4))
        lives.append(draw(st.builds(
            Life, cell=NAMES, position=st.integers(0, 99), id=st.integers(),
            outcome=st.sampled_from(["broken", "survived"]), label=st.integers(0, len(classes) - 1),
            predicted=st.integers(NO_ANSWER, len(classes) - 1),
            rejected=st.booleans(), threshold=st.none() | NUMBERS, linf=NUMBERS, l2=NUMBERS, note=NAMES,
            steps=st.lists(
                st.builds(Step, name=NAMES, logits=st.lists(NUMBERS, min_size=len(classes), max_size=len(classes)),
                          score=st.none() | NUMBERS),
                min_size=steps, max_size=steps,
            ),
        )))  # fmt: skip
        pixels = np.random.default_rng(draw(st.integers(0, 99))).random((steps, *shape))
        pictures.append(tuple(pixels.astype(np.float16)))
    return Album(Lives(classes=classes, lives=tuple(lives)), tuple(pictures))


def a_life(**changes: Any) -> dict[str, Any]:
    steps = [{"name": name, "logits": [1.0, 2.0], "score": 0.5} for name in ("clean", "adversarial")]
    life = {"cell": "c", "position": 3, "id": 7, "label": 0, "outcome": "broken", "predicted": 1, "rejected": False}
    return life | {"threshold": 1.0, "linf": 0.1, "l2": 1.0, "steps": steps} | changes


def pictures(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.full((3, 4, 4), 0.5, np.float16) for name in ("0/0", "0/1")} | changes


def put(folder: Path, content: bytes) -> Path:
    (folder / LIVES).write_bytes(content)
    return folder


def hostile(folder: Path, arrays: dict[str, np.ndarray], *lives: dict[str, Any], **rest: Any) -> Album | None:
    whole = {"schema_version": 1, "classes": ["a", "b"], "lives": lives} | rest
    return read_album(put(folder, save(arrays, {"lives": json.dumps(whole)})))


@given(album=albums())
def test_what_is_written_is_read(album: Album, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_album(folder, album)
    content = (folder / LIVES).read_bytes()
    found = read_album(folder)
    assert found is not None
    # repr, because NaN does not equal itself
    assert repr(found.lives) == repr(album.lives)
    for mine, theirs in zip(found.pictures, album.pictures, strict=True):
        assert all(np.array_equal(a, b) and a.dtype == np.float16 for a, b in zip(mine, theirs, strict=True))
    write_album(folder, found)
    assert (folder / LIVES).read_bytes() == content


def test_a_torn_file_is_no_album(tmp_path: Path) -> None:
    assert read_album(tmp_path) is None
    assert hostile(tmp_path, pictures(), a_life()) is not None
    content = (tmp_path / LIVES).read_bytes()
    for end in range(0, len(content), 7):
        assert read_album(put(tmp_path, content[:end])) is None
    for place in range(0, len(content), 5):
        flipped = content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :]
        read_album(put(tmp_path, flipped))  # an album or none; never an error


def test_a_folder_in_its_place_is_no_album(tmp_path: Path) -> None:
    (tmp_path / LIVES).mkdir()
    assert read_album(tmp_path) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"label": 2}, {"label": -1}, {"predicted": 2}, {"predicted": -2}, {"position": -1}, {"steps": []},
        {"outcome": "<script>"}, {"more": 1}, {"steps": [{"name": "clean", "logits": []}] * 2},
        {"steps": [{"name": "clean", "logits": [1.0]}] * 2}, {"steps": [{"name": "clean", "logits": [1.0, 2.0]}] * 3},
    ],
)  # fmt: skip
def test_lives_that_cannot_be_are_no_album(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert hostile(tmp_path, pictures(), a_life(**changes)) is None


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((3, 4, 5), np.float16), np.zeros((3, 4), np.float16), np.zeros((2, 4, 4), np.float16),
        np.zeros((3, 4, 4), np.float32), np.full((3, 4, 4), np.nan, np.float16), np.zeros((3, 0, 0), np.float16),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_drawn_are_no_album(tmp_path: Path, picture: np.ndarray) -> None:
    assert hostile(tmp_path, pictures(**{"0/1": picture}), a_life()) is None


def test_what_else_is_no_album(tmp_path: Path) -> None:
    assert hostile(tmp_path, {"0/0": pictures()["0/0"]}, a_life()) is None, "a picture is missing"
    assert hostile(tmp_path, pictures(), a_life(), schema_version=2) is None
    assert hostile(tmp_path, {}, classes=[]) is None
    assert read_album(put(tmp_path, save(pictures()))) is None, "nothing is said of the lives"
    assert read_album(put(tmp_path, save(pictures(), {"lives": "[" * 100_000}))) is None
    odd = {name: torch.zeros(3, 4, 4, dtype=torch.bfloat16) for name in ("0/0", "0/1")}
    whole = json.dumps({"schema_version": 1, "classes": ["a", "b"], "lives": [a_life()]})
    assert read_album(put(tmp_path, save_torch(odd, {"lives": whole}))) is None


@given(logits=st.lists(st.floats(-50, 50), min_size=1, max_size=6))
def test_confidences_are_the_softmax(logits: list[float]) -> None:
    step = Step(name="", logits=logits)
    wanted = torch.tensor(logits, dtype=torch.float64).softmax(0)
    assert step.confidences() == pytest.approx(wanted.tolist(), abs=1e-12)
    assert logits[step.predicted] == max(logits)


def test_logits_without_a_largest_are_no_answer() -> None:
    step = Step(name="", logits=(1.0, math.nan))
    assert step.predicted == NO_ANSWER and all(map(math.isnan, step.confidences()))
    assert all(map(math.isnan, Step(name="", logits=(math.inf, 0.0)).confidences()))
