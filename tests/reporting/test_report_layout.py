"""Tables fitted to a width: nothing is lost, nothing is broken, and the rule on what stays together holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from report_cells import FEW

from ismn_cli.reporting.layout import Block, Column, Sheet, fit

LABELS = (("a",), ("bb",))


def columns(prefix: str, widths: list[int], tied: bool = False) -> tuple[Column, ...]:
    """Return columns of given widths; with ``tied`` every second one stays beside its neighbour."""
    return tuple(
        Column((f"{prefix}{i}",), (("x" * width,), ("y",)), tied and i % 2 == 1) for i, width in enumerate(widths)
    )


def width(block: Block) -> int:
    """Measure as simply as can be: labels of 2, and every column by its widest text and a space."""
    return 2 + sum(1 + max(len(cell[0]) for cell in column.cells) for column in block.columns)


WIDTHS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    groups = draw(st.lists(WIDTHS, min_size=1, max_size=4))
    made = tuple(columns(f"{g}.", widths, draw(st.booleans())) for g, widths in enumerate(groups))
    return Sheet("t", "c", LABELS, columns("lead", draw(st.lists(st.integers(1, 30), max_size=1))), made)


@FEW
@given(sheets(), st.integers(5, 150))
def test_every_column_appears_once_in_order_and_lead_beside_or_ahead(sheet: Sheet, limit: int) -> None:
    blocks = fit(sheet, limit, width)
    shown = [column for block in blocks for column in block.columns if column not in sheet.lead]
    assert shown == [column for group in sheet.groups for column in group]
    assert all(lead in blocks[0].columns for lead in sheet.lead)
    assert all(block.labels == LABELS and block.columns for block in blocks)


@FEW
@given(sheets(), st.integers(5, 150))
def test_only_an_indivisible_block_is_too_wide(sheet: Sheet, limit: int) -> None:
    for block in fit(sheet, limit, width):
        if width(block) > limit:
            assert sum(not column.tied for column in block.columns) == 1


@FEW
@given(sheets(), st.integers(5, 150))
def test_tied_columns_never_open_a_block(sheet: Sheet, limit: int) -> None:
    assert not any(block.columns[0].tied for block in fit(sheet, limit, width))


@FEW
@given(sheets())
def test_whole_where_there_is_room(sheet: Sheet) -> None:
    assert len(fit(sheet, 10_000, width)) == 1


def test_a_block_a_group_with_the_lead_beside() -> None:
    sheet = Sheet("t", "c", LABELS, columns("lead", [3]), (columns("a", [5, 5]), columns("b", [5, 5])))
    blocks = fit(sheet, 18, width)
    assert [[c.head[0] for c in block.columns] for block in blocks] == [
        ["lead0", "a0", "a1"],
        ["lead0", "b0", "b1"],
    ]


def test_parts_are_even() -> None:
    sheet = Sheet("t", "c", LABELS, (), (columns("a", [5, 5, 5, 5]),))
    assert [len(block.columns) for block in fit(sheet, 20, width)] == [2, 2]
