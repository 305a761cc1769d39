"""Files that others replace, list and delete at the same time, as on a shared file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_cells import ENVIRONMENT, a_result

from ismn_cli.core.errors import UsageError
from ismn_cli.core.storage import is_remote, is_url, names_in, open_place, read_all, read_bytes, remove_folder
from ismn_cli.core.store import Store

KEY = a_result().cell.key()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def failing(real: Callable[..., Any], code: int, times: int) -> Callable[..., Any]:
    left = [times]

    def call(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    return call


@pytest.mark.parametrize(("times", "found"), [(1, a_result(1)), (2, None)])
def test_a_stale_handle_is_looked_up_once_more(
    store: Store, monkeypatch: pytest.MonkeyPatch, times: int, found: object
) -> None:
    store.put_cell(a_result(1))
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, errno.ESTALE, times))
    assert store.cell(KEY) == found
    assert not (store.root / "corrupt").exists()


def test_a_stale_folder_is_listed_once_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.start_run("run", "quickstart", {}, ENVIRONMENT, "a" * 64)
    monkeypatch.setattr(os, "listdir", failing(os.listdir, errno.ESTALE, 1))
    assert len(store.runs()) == 1


def test_runs_that_vanish_between_listing_and_opening(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.start_run("run", "quickstart", {}, ENVIRONMENT, "a" * 64)
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*real(folder), "gone-00000000"])
    assert len(store.runs()) == 1


def test_what_may_not_be_read_is_no_absence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_cell(a_result(1))
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, errno.EACCES, 9))
    with pytest.raises(UsageError, match="Permission denied"):
        store.cell(KEY)


def test_cells_come_in_the_order_of_their_keys(store: Store) -> None:
    results = [a_result(seed=seed, n=2) for seed in range(150)]
    for result in results[::2]:
        store.put_cell(result)
    keys = [result.cell.key() for result in results]
    found = list(store.cells(iter(keys)))
    assert [key for key, _ in found] == keys
    assert [result for _, result in found] == [r if i % 2 == 0 else None for i, r in enumerate(results)]


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert names_in(tmp_path / "none") == names_in(tmp_path / "file") == []
    assert list(read_all([tmp_path / "none", tmp_path / "file", tmp_path / "file" / "below"])) == [None, b"x", None]
    remove_folder(tmp_path / "none")
    assert read_bytes(tmp_path / "file") == b"x"


@pytest.mark.parametrize("text", ["s3://bucket/x", "memory://x", "file:///x", "a::b://x", "S3://x"])
def test_what_is_a_url(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["store", "./s3:/x", "/abs/x", "C:\\store", "a b://x", "://x", "1s3://x", "~/.ismn"])
def test_what_is_a_folder(text: str) -> None:
    assert not is_url(text)
    assert open_place(text) == Path(text) and not is_remote(open_place(text))
