"""Shards: a matrix in pieces, by many processes in any order, is the matrix."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ismn_cli.core.parts import Span, joined, rows_of, shard_span
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CLOCKS, CellResult
from ismn_cli.core.store import Store
from ismn_cli.stages import cells
from ismn_cli.stages.matrix import REPORT, Finished, compute_shard, run_plan
from ismn_cli.stages.plan import Matrix, plan_matrix

BATCH = 7
BATCHES = 9
"""Of sixty images."""


def _matrix(store: Store, **changes: Any) -> Matrix:
    mapping: dict[str, Any] = {
        "name": "matrix",
        "defence": ["none", "ddsa", "magnet"],
        "knowledge": ["gray", "adaptive"],
        "attack": {"method": ["fgsm", "pgd"], "eps": [0.05, 0.2], "params": {"pgd": {"steps": 3}}},
        "survivors": True,
        "batch_size": BATCH,
    }
    return plan_matrix(MatrixRecipe.model_validate(mapping | changes), store, None, "cpu")


def _run(store: Store, matrix: Matrix | None = None) -> Finished:
    return run_plan(matrix or _matrix(store), store, "run", lambda _: None)


def _shard(store: Store, shard: int, shards: int) -> tuple[int, int]:
    return compute_shard(_matrix(store), store, shard, shards, lambda _: None)


def _content(result: CellResult) -> dict[str, Any]:
    return result.model_dump(mode="json", exclude=set(CLOCKS))


@pytest.fixture
def whole(store: Store, defences: None, tmp_path: Path) -> Finished:
    """Return the matrix run in one go, in a store of its own with the same trainings."""
    other = Store.open(tmp_path / "whole")
    (other.root / "runs").symlink_to(store.root / "runs")
    return _run(other, _matrix(store))


@pytest.mark.parametrize("shards", [1, 2, 4, BATCHES, BATCHES + 3])
def test_shards_in_any_order_make_the_matrix(
    shards: int, store: Store, whole: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = random.Random(shards).sample(range(1, shards + 1), shards)
    for shard in order:
        _shard(store, shard, shards)
    report = (whole.run.folder / REPORT).read_bytes()
    monkeypatch.setattr(cells.Bench, "carry_out", lambda *_: pytest.fail("it was all there"))
    finished = _run(store)
    assert [_content(r) for r in finished.results] == [_content(r) for r in whole.results]
    assert finished.stored == len(finished.results) and (finished.run.folder / REPORT).read_bytes() == report
    assert not list(store.root.glob("parts/*/*"))


def test_a_shard_that_is_done_is_not_done_again(store: Store, defences: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cells_of_it = len({cell.key() for _, cell in _matrix(store).cells()})
    assert _shard(store, 2, 3) == (cells_of_it, 0)
    monkeypatch.setattr(cells.Bench, "carry_out", lambda *_: pytest.fail("it was all there"))
    assert _shard(store, 2, 3) == (cells_of_it, cells_of_it)


def test_a_shard_finds_what_the_whole_has_computed(
    store: Store, defences: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(store)
    monkeypatch.setattr(cells.Bench, "carry_out", lambda *_: pytest.fail("it was all there"))
    done, stored = _shard(store, 1, 2)
    assert done == stored > 0


def test_missing_and_damaged_parts_are_computed_again(
    store: Store, whole: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in (1, 2, 3):
        _shard(store, shard, 3)
    parts = sorted(store.root.glob("parts/*/*/*.json"))
    content = json.loads(parts[0].read_text())
    parts[0].unlink()
    parts[4].write_text(parts[4].read_text()[:-40])
    parts[8].write_text(json.dumps(content))  # another cell's, or other batches
    crafted: list[int] = []
    real = cells.Bench._craft
    monkeypatch.setattr(cells.Bench, "_craft", lambda self, *rest: crafted.append(1) or real(self, *rest))
    finished = _run(store)
    assert [_content(r) for r in finished.results] == [_content(r) for r in whole.results]
    assert not crafted and len(list((store.root / "corrupt").iterdir())) == 2


def test_shards_of_different_counts_do_not_mix(store: Store, whole: Finished) -> None:
    for shard, shards in ((1, 2), (3, 4), (2, 3), (1, 5)):  # together they overlap, and leave the end out
        _shard(store, shard, shards)
    finished = _run(store)
    assert [_content(r) for r in finished.results] == [_content(r) for r in whole.results]


def test_spans_cover_all_batches_once() -> None:
    for batches in range(0, 20):
        for shards in range(1, 25):
            spans = [shard_span(batches, shard, shards) for shard in range(1, shards + 1)]
            assert [i for span in spans for i in span.indices()] == list(range(batches))
            sizes = {len(span.indices()) for span in spans}
            assert max(sizes) - min(sizes) <= 1
    assert shard_span(4, 2, 2) == Span(2, 4)


def test_what_is_cut_apart_is_joined_again(whole: Finished) -> None:
    for result in whole.results:
        parts = [rows_of(result, slice(start, start + 11)) for start in range(0, 60, 11)]
        again = joined([parts[0].model_copy(update={"forwards": result.forwards}), *parts[1:]])
        counted = {"backwards", "queries", "carried", *CLOCKS}
        assert again.model_dump(exclude=counted) == result.model_dump(exclude=counted)
        assert CellResult.model_validate_json(again.model_dump_json()) == again
