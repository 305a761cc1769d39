"""Outcomes as numbers against `CellResult.outcomes`, and worst cases over reduced cells against those over whole."""

from __future__ import annotations

import gc
import weakref

from core_cells import a_result, results
from hypothesis import given, settings
from hypothesis import strategies as st
from test_worst_outcomes import SIZES, systems

from ismn_cli.core import rates
from ismn_cli.core.arrays import SEVERITY, columns, counts
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.worst_case import Trials, met

FEW = settings(max_examples=50, deadline=None)


@given(st.lists(results() | results(attacked=False), min_size=1, max_size=3), st.data())
def test_codes_are_the_outcomes_whatever_was_looked_at_before(found: list[CellResult], data: st.DataObject) -> None:
    for _ in range(6):
        result = data.draw(st.sampled_from(found))
        assert tuple(SEVERITY[code] for code in columns(result).codes) == result.outcomes()
        assert counts(columns(result).codes) == {o: result.outcomes().count(o) for o in Outcome}


@given(results(min_size=1))
def test_a_changed_copy_has_columns_of_its_own(result: CellResult) -> None:
    before = columns(result).codes.tolist()
    lost = result.model_copy(update={"failed": (True,) * len(result.ids)})
    assert all(SEVERITY[code] in (Outcome.WRONG_CLEAN, Outcome.UNKNOWN) for code in columns(lost).codes)
    assert columns(result).codes.tolist() == before


def test_no_cell_is_held_for_its_columns() -> None:
    result = a_result()
    columns(result)
    seen = weakref.ref(result)
    del result
    gc.collect()
    assert seen() is None


@FEW
@given(systems(), st.sampled_from(SIZES))
def test_a_reduced_cell_is_as_good_as_a_whole_one(found: list[CellResult], eps: float) -> None:
    whole, reduced = Trials(found).worst_case(eps), Trials([met(r) for r in found]).worst_case(eps)
    assert (whole is None) == (reduced is None)
    if whole is not None and reduced is not None:
        assert whole.outcomes() == reduced.outcomes() and whole.first == reduced.first
        assert [c.cell for c in whole.cells] == [c.cell for c in reduced.cells]
        assert (whole.here, whole.incomplete) == (reduced.here, reduced.incomplete)
        assert whole.broken_by() == reduced.broken_by()
        assert rates.success_rate(whole) == rates.success_rate(reduced)
