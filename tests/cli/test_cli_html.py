"""`ismn report --format html`, and the commands that the page gives: each makes its cell again, and nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ismn_cli.core.store import Store
from ismn_cli.reporting.commands import cell_command, run_command

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def trained(ismn, store: Store) -> str:
    ended = ismn("train", "--dataset", "cifar10")
    assert ended.code == 0, ended.err
    return store.run("latest").record.id


@pytest.fixture
def ran(ismn, store: Store, trained: str, tmp_path: Path) -> Store:
    """A matrix with attackers of three levels that go on with survivors."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "{task: matrix, defence: [none, ismn], knowledge: [gray, white, black], survivors: true,"
        " attack: {method: [fgsm, pgd], method_at: {black: [square]}, eps: [8/255, 0.1],"
        " params: {square: {n_queries: 5}, pgd: {steps: 3}}}, dataset: {limit: 20}, batch_size: 10}"
    )
    ended = ismn("run", str(recipe))
    assert ended.code == 0, ended.err
    return store


def test_a_page_is_written_to_a_file_or_to_stdout(ismn, ran: Store, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    ended = ismn("report", "--format", "html", "-o", str(file))
    assert (ended.code, ended.out) == (0, "") and f"report: {file}" in ended.err
    page = file.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "Security curves" in page and page.rstrip().endswith("</html>")
    assert ismn("report", "--format", "html").out == page


def test_other_tables_are_pages_too(ismn, ran: Store) -> None:
    ended = ismn("report", "--compare", "ismn,none", "--format", "html")
    assert ended.code == 0 and ended.out.startswith("<!DOCTYPE html>") and "Security curves" not in ended.out


def test_each_cells_command_makes_that_cell(ismn, ran: Store) -> None:
    """In the store nothing is computed again: the command's cells are the stored ones, the wanted one among them."""
    record = ran.run("latest").record
    found = [cell.cell for key in record.cells if (cell := ran.cell(key))]
    for cell in found[:: len(found) // 7]:
        command = cell_command(record, cell)
        assert command is not None
        ended = ismn(*shlex.split(command)[1:])
        assert ended.code == 0, (command, ended.err)
        mine = ran.run("latest").record
        assert cell.key() in mine.cells, command
        assert f"{len(mine.cells)} of {len(mine.cells)} cells were stored already" in ended.err, command
        assert len(mine.cells) < len(record.cells) / 2


def test_a_runs_command_makes_the_same_run(ismn, ran: Store) -> None:
    record = ran.run("latest").record
    command = run_command(record)
    assert command is not None
    assert ismn(*shlex.split(command)[1:]).code == 0
    assert set(ran.run("latest").record.cells) == set(record.cells)
