"""Rows dealt out to processes, devices of their own, and what torchrun's variables say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismn_cli.core.errors import UsageError
from ismn_cli.core.world import World, alone
from ismn_cli.engine.parallel import ALONE, Ranks, joined
from ismn_cli.engine.shareable import check_shareable
from ismn_models import parallel
from ismn_models.parallel import Rows, between, drawn, share, sharing
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.shape import Shape
from ismn_models.training import Stage

CPU = torch.device("cpu")
VARIABLES = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
batches = st.tuples(st.integers(1, 40), st.integers(2, 9))


def _dealt(n: int, size: int) -> list[Rows]:
    dealt = [Ranks(World(rank, size, rank)).rows(n, CPU) for rank in range(size)]
    return [rows for rows in dealt if rows is not None]


@given(batches)
def test_every_row_counts_once(batch: tuple[int, int]) -> None:
    n, size = batch
    dealt = _dealt(n, size)
    assert sorted(place for rows in dealt if not rows.idle for place in rows.own.tolist()) == list(range(n))
    assert all(len(rows.own) and rows.total == n for rows in dealt)
    assert max(len(rows.own) for rows in dealt) == -(-n // size)
    shares = []
    for rows in dealt:
        with sharing(rows):
            shares.append(share())
    assert sum(shares) == pytest.approx(1)


@given(batches, st.integers(0, 40), st.integers(0, 40))
def test_a_stretch_of_the_batch_is_dealt_out_as_the_batch_is(batch: tuple[int, int], start: int, length: int) -> None:
    n, size = batch
    stop = start + length
    expected, found = list(range(n))[start:stop], []
    for rows in _dealt(n, size):
        with sharing(rows), between(start, stop, len(rows.own)) as chosen:
            assert chosen.total == len(expected) and len(rows.own[chosen.at])
            if not chosen.idle:
                found += rows.own[chosen.at].tolist()
    assert sorted(found) == expected
    with between(start, stop, n) as chosen:
        assert chosen.total == len(expected) and torch.arange(n)[chosen.at].tolist() == expected


@settings(max_examples=30)
@given(batches, st.integers(0, 99), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_each_process_has_its_rows_of_what_one_draws(
    batch: tuple[int, int], seed: int, order: torch.memory_format
) -> None:
    n, size = batch
    x = torch.zeros(n, 3, 4, 2).contiguous(memory_format=order)

    def draws(x: Tensor) -> list[Tensor]:
        torch.manual_seed(seed)
        across = drawn(lambda m: torch.rand(2, m, 1), len(x), dim=1).transpose(0, 1)
        return [parallel.normal_like(x), parallel.uniform_like(x), across, torch.rand(1)]

    *whole, after = draws(x)
    torch.manual_seed(seed)
    plain = [torch.rand(2, n, 1).transpose(0, 1), torch.randn_like(x), torch.rand_like(x)]
    for rows in _dealt(n, size):
        with sharing(rows):
            *own, next_one = draws(x[rows.own])
        for part, all_, one in zip(own, whole, (plain[1], plain[2], plain[0]), strict=True):
            assert torch.equal(part, all_[rows.own]) and torch.equal(all_, one)
        assert torch.equal(next_one, after)


def test_drawing_for_other_rows_than_the_batch_s_is_a_fault() -> None:
    with sharing(Rows(torch.tensor([0, 2]), 4)), pytest.raises(RuntimeError, match="drawn for 3 rows"):
        drawn(torch.rand, 3)


def test_one_process_without_torchrun() -> None:
    assert World.here({}) == World.here({"RANK": "1", "WORLD_SIZE": "2"}) == World()
    assert ALONE.rows(5, CPU) is None and ALONE.leads and ALONE.device("cuda:7") == "cuda:7"
    content = object()
    assert ALONE.from_first(content) is content
    with joined(ALONE):
        assert not torch.distributed.is_initialized()


def test_what_torchrun_says() -> None:
    assert World.here(VARIABLES) == World(1, 4, 1)


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": ""}])
def test_variables_that_contradict_themselves(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="not as torchrun sets them"):
        World.here(VARIABLES | wrong)


def test_the_work_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    alone("attack")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="ismn attack is the work of one process"):
        alone("attack")


def test_a_device_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    third, chosen = Ranks(World(2, 4, 2)), list[int]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert third.device("auto") == "auto" and third.device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert third.device("auto") == third.device("cuda") == "cuda:2" and chosen == [2, 2]
    with pytest.raises(UsageError, match="cuda:1"):
        third.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="has 2 GPUs") as raised:
        third.device("auto")
    assert "--nproc-per-node 2" in raised.value.hint


class _Own(Stage):
    name, epochs, batch_size = "own", 1, 4


def test_stages_that_know_nothing_of_it_are_refused() -> None:
    pipeline = Pipeline(torch.nn.Flatten(), Defence())
    with pytest.raises(UsageError, match="'own' cannot be shared"):
        check_shareable([_Own()], pipeline, Shape(3), Ranks(World(0, 2, 0)))
    check_shareable([_Own()], pipeline, Shape(3), ALONE)
    closing = _Own()
    closing.epochs = 0
    check_shareable([closing], pipeline, Shape(3), Ranks(World(0, 2, 0)))


def test_more_processes_than_rows_are_refused() -> None:
    stage = _Own()
    stage.shareable = True
    with pytest.raises(UsageError, match="batches of 4, too small for 5") as raised:
        check_shareable([stage], Pipeline(torch.nn.Flatten(), Defence()), Shape(3), Ranks(World(0, 5, 0)))
    assert "Start 4" in raised.value.hint
