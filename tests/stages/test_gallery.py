"""Lives: what is drawn of a sample is what the stored cell says became of it, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ismn_cli.core.errors import UsageError
from ismn_cli.core.lives import read_album
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.store import Store
from ismn_cli.stages import gallery
from ismn_cli.stages.lives import Scene
from ismn_cli.stages.matrix import Finished, run_plan
from ismn_cli.stages.plan import Matrix, plan_matrix

ALL = ["none", "ismn", "magnet", "ddsa", "median"]
CPU = torch.device("cpu")


def planned(store: Store, **changes: Any) -> Matrix:
    mapping = {"name": "matrix", "defence": ALL, "attack": {"method": ["fgsm", "pgd"], "eps": 0.2}, "batch_size": 7}
    return plan_matrix(MatrixRecipe.model_validate(mapping | changes), store, None, "cpu")


def ran(store: Store, matrix: Matrix) -> Finished:
    return run_plan(matrix, store, "run", lambda _: None)


@pytest.fixture
def matrix(store: Store, trained: Any) -> Matrix:
    base = trained("classifier").run.record.id
    for system in ("ismn", "magnet", "ddsa"):
        trained(system, classifier=base)
    return planned(store)


def scenes(matrix: Matrix, store: Store, results: tuple[CellResult, ...]) -> list[Scene]:
    by_name = {system.subject.name: system for system in matrix.systems}
    return [
        Scene(result, by_name[result.cell.defence.name], matrix.images, store, CPU)
        for result in results if result.attacked
    ]  # fmt: skip


def test_lives_say_what_the_cells_say(store: Store, matrix: Matrix) -> None:
    """Of all systems, the one that draws at random among them, in batches that the samples do not fill."""
    positions = [0, 3, 8, 20, 59]
    x = matrix.images.floats()
    for scene in scenes(matrix, store, ran(store, matrix).results):
        result, classifier = scene.result, scene.system.pipeline.classifier
        for (life, pictures), i in zip(scene.lives(reversed(positions)), positions, strict=True):
            assert (life.position, life.id, life.label) == (i, result.ids[i], result.labels[i])
            assert life.outcome is result.outcomes()[i] and life.cell == result.cell.key() and life.note == ""
            assert (life.predicted, life.rejected) == (result.attacked.predicted[i], result.attacked.rejected[i])
            assert life.steps[-1].predicted == life.predicted, "the system answers on the last picture"
            assert len(life.steps) == len(pictures) and [s.name for s in life.steps[:2]] == ["clean", "adversarial"]
            assert np.array_equal(pictures[0], x[i].numpy())
            assert abs(pictures[1] - pictures[0]).max() == pytest.approx(life.linf, abs=1e-6)
            for step, picture in zip(life.steps, pictures, strict=True):
                logits = classifier(torch.from_numpy(picture)[None])[0]
                assert step.logits == pytest.approx(logits.tolist(), abs=1e-4)
            detects = result.cell.defence.name in ("ismn", "magnet")
            assert (life.threshold is not None) == detects == (life.steps[0].score is not None)
            if detects:
                assert life.steps[1].score == pytest.approx(result.attacked.score[i], abs=1e-5)
                assert (life.steps[1].score >= life.threshold) == result.attacked.flagged[i]
            if result.cell.defence.name == "ismn":
                assert len(life.steps) == 2 + result.attacked.loops[i]


def test_another_answer_than_the_stored_one_is_said(store: Store, matrix: Matrix) -> None:
    scene = scenes(matrix, store, ran(store, matrix).results)[0]
    answers = scene.result.attacked
    flipped = answers.model_copy(update={"predicted": tuple((p + 1) % 3 for p in answers.predicted)})
    other = replace(scene, result=scene.result.model_copy(update={"attacked": flipped}))
    ((life, _),) = other.lives([4])
    assert life.predicted == flipped.predicted[4] and f"class {answers.predicted[4]}" in life.note


def test_examples_that_are_gone_are_an_error(store: Store, matrix: Matrix) -> None:
    scene = scenes(matrix, store, ran(store, matrix).results)[0]
    for file in scene.store.examples(scene.result.cell.examples_key()).folder.iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="no longer in the store"):
        scene.lives([0])


def test_a_matrix_keeps_a_gallery_and_repeats_it_to_the_byte(store: Store, matrix: Matrix) -> None:
    finished = ran(store, matrix)
    path = finished.run.folder / "lives.safetensors"
    content, album = path.read_bytes(), read_album(finished.run.folder)
    assert album is not None and album.lives.classes == ("red", "green", "blue")
    assert 0 < len(album.lives.lives) <= gallery.MOST
    assert {store.cell(life.cell).cell.defence.name for life in album.lives.lives} == set(ALL)
    assert not any(life.note for life in album.lives.lives)
    path.unlink()
    again = ran(store, planned(store))
    assert again.stored == len(again.results) and path.read_bytes() == content


def test_pictures_are_made_smaller_to_fit(monkeypatch: pytest.MonkeyPatch, store: Store, matrix: Matrix) -> None:
    monkeypatch.setattr(gallery, "BYTES", 2000)
    album = read_album(ran(store, matrix).run.folder)
    pictures = [picture for pictures in album.pictures for picture in pictures]
    side = pictures[0].shape[-1]
    assert 0 < side < 8 and all(picture.shape == (3, side, side) for picture in pictures)
    assert sum(picture.nbytes for picture in pictures) <= 2000
    x = matrix.images.floats(slice(album.lives.lives[0].position, album.lives.lives[0].position + 1))
    wanted = torch.nn.functional.adaptive_avg_pool2d(x, side)[0]
    assert album.pictures[0][0] == pytest.approx(wanted.numpy(), abs=1e-3)


def test_a_gallery_that_fails_is_a_note_and_no_more(
    monkeypatch: pytest.MonkeyPatch, store: Store, matrix: Matrix
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(Scene, "lives", crash)
    run = ran(store, matrix).run
    assert run.record.status == "done" and any("no ink" in note for note in run.record.notes)
    assert read_album(run.folder) is None


def test_a_matrix_without_attacks_keeps_an_empty_gallery(store: Store, matrix: Matrix) -> None:
    album = read_album(ran(store, planned(store, knowledge="clean", defence=["none"])).run.folder)
    assert album is not None and album.lives.lives == ()
