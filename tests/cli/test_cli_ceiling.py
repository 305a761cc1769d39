"""`ismn ceiling`, and the ceiling's line in the tables of the other commands."""

from __future__ import annotations

import csv
import io
import json

import pytest
import small_world

from ismn_cli.audit.ceiling import ceilings
from ismn_cli.core.specs import Norm
from ismn_cli.core.store import Store

pytestmark = pytest.mark.usefixtures("small")


def possible(n: int, *sizes: float) -> list[float]:
    """Return the ceilings of the first ``n`` images of the small world."""
    images = small_world.load("test").take(slice(n))
    return [top.possible for top in ceilings(images.pixels.numpy(), images.labels.numpy(), Norm.LINF, sizes)]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_sizes_are_told_in_ascending_order_and_computed_once(ismn) -> None:
    first = ismn("ceiling", "--dataset", "cifar10", "--eps", "0.3,0.2", "--eps", "8/255", "--format", "csv")
    assert first.code == 0, first.err
    assert [row["level"] for row in rows(first.out)] == ["8/255", "0.2", "0.3"]
    assert [float(row["ceiling_images"]) for row in rows(first.out)] == possible(60, 8 / 255, 0.2, 0.3)
    assert "comparing images: 1200/1200" in first.err
    again = ismn("ceiling", "--dataset", "cifar10", "--eps", "8/255,0.2,0.3", "--format", "csv")
    assert again.out == first.out and "comparing" not in again.err


@pytest.mark.parametrize("form", ["rich", "markdown", "json"])
def test_every_format_explains_and_shows_the_same(ismn, form: str) -> None:
    ended = ismn("ceiling", "--eps", "0.3", "--format", form)
    assert ended.code == 0 and "cifar10-mini" in ended.err
    (top,) = possible(30, 0.3)
    assert 15 <= top < 30 and f"{100 * top / 30:.1f}" in ended.out
    assert "one answer there" in ended.out.replace("\n", " ")
    if form == "json":
        assert json.loads(ended.out)["rows"][0]["ceiling_images"] == top


def test_a_part_of_the_images_is_named_as_such(ismn) -> None:
    ended = ismn("ceiling", "--dataset", "cifar10", "--limit", "12", "--seed", "3", "--norm", "l2", "--eps", "0.5")
    assert ended.code == 0 and "first 12 of 60 images, l2" in ended.out and "100.0" in ended.out


@pytest.mark.parametrize(
    ("arguments", "says", "hints"),
    [
        (("--eps", "3"), "outside [0, 1]", "ismn ceiling --eps 8/255,0.3"),
        (("--eps", ""), "eps '' is not a number", "ismn ceiling --eps 8/255,0.3"),
        (("--eps", ","), "eps '' is not a number", "ismn ceiling --eps 8/255,0.3"),
        (("--norm", "l1"), "no norm called 'l1'", "Did you mean 'l2'?"),
        (("--dataset", "cifar11"), "no data set called 'cifar11'", "Did you mean 'cifar10'?"),
        (("--format", "yaml"), "no report format called 'yaml'", "csv, html, json, latex, markdown, rich"),
        (("--limit", "0"), "limit: should be greater than or equal to 1", ""),
    ],
)
def test_wrong_options_are_told_with_what_to_type(ismn, arguments: tuple[str, str], says: str, hints: str) -> None:
    ended = ismn("ceiling", *arguments)
    assert ended.code == 2 and ended.out == ""
    assert says in ended.err and hints in ended.err and "Traceback" not in ended.err


def test_a_run_stores_its_ceilings_and_every_table_shows_them(ismn, store: Store) -> None:
    assert ismn("train", "--system", "classifier").code == 0
    attacked = ismn("attack", "--method", "pgd", "--eps", "8/255,0.3", "--dataset", "cifar10")
    assert attacked.code == 0, attacked.err
    shares = [f"{100 * top / 60:.1f}" for top in possible(60, 8 / 255, 0.3)]
    assert shares == ["100.0", "60.0"]
    line = next(line for line in attacked.out.splitlines() if "any classifier" in line)
    assert line.split()[-2:] == shares
    stored = (store.run("latest").folder / "report.csv").read_text()
    assert [row["ceiling"] for row in rows(stored)] == ["", *shares]

    reported = ismn("report", "--format", "csv")
    assert [row["ceiling"] for row in rows(reported.out)][:3] == ["", *shares]
    markdown = ismn("report", "--format", "markdown").out
    assert "any classifier (at most) |" in markdown and "Ceiling: of these images" in markdown
    assert "any classifier" in ismn("defend", "--defence", "none,median").out


def test_a_store_without_ceilings_still_reports(ismn, store: Store) -> None:
    assert ismn("train", "--system", "classifier").code == 0
    assert ismn("attack", "--eps", "0.3").code == 0
    for path in (store.root / "ceilings").iterdir():
        path.unlink()
    ended = ismn("report", "--format", "markdown")
    assert ended.code == 0 and "any classifier (at most)" not in ended.out
