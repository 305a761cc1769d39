"""The results of a matrix as they come in, batch by batch, until a cell has all of them and is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ismn_cli.core.parts import Span, joined, rows_of
from ismn_cli.core.records import CellResult
from ismn_cli.core.store import Store


class Ledger:
    """Results on the batches of ``span``, all of a matrix's ``batches`` or a shard of them.

    A cell that has come in whole is stored, and on a shard its part.
    """

    def __init__(self, store: Store, keys: Iterable[str], span: Span, batches: int, batch_size: int) -> None:
        self.store, self.span, self.batch_size = store, span, batch_size
        self.whole = span == Span(0, batches)
        self._sharded = store.has_parts()
        self.found: dict[str, CellResult] = {}
        """Results on the whole span, by the cell's key."""
        self._parts: dict[str, dict[int, CellResult]] = {}
        for key, stored in store.cells(keys):
            result = self._stored(key, stored, batches)
            if result is not None:
                self.found[key] = result

    def rows(self) -> slice:
        """Return the positions of the span's images."""
        return slice(self.span.first * self.batch_size, self.span.last * self.batch_size)

    def part(self, key: str, index: int) -> CellResult:
        """Return a cell's result on batch ``index``, which is there."""
        whole = self.found.get(key)
        if whole is None:
            return self._parts[key][index]
        start = (index - self.span.first) * self.batch_size
        return rows_of(whole, slice(start, start + self.batch_size))

    def has(self, key: str, index: int) -> bool:
        """Whether a cell's result on batch ``index`` is there."""
        return key in self.found or index in self._parts.get(key, ())

    def add(self, index: int, results: Sequence[CellResult]) -> list[CellResult]:
        """Take in results on batch ``index``; store and return those that are whole with it."""
        return [whole for result in results if (whole := self._add(index, result))]

    def _add(self, index: int, result: CellResult) -> CellResult | None:
        key = result.cell.key()
        parts = self._parts.setdefault(key, {})
        parts[index] = result
        if len(parts) < self.span.last - self.span.first:
            return None
        whole = joined([parts[i] for i in self.span.indices()])
        if self.whole:
            self.store.put_cell(whole)
            if self._sharded:
                self.store.parts(key).clear()
        else:
            self.store.parts(key).put(self.span, whole)
        self.found[key] = whole
        del self._parts[key]
        return whole

    def _stored(self, key: str, result: CellResult | None, batches: int) -> CellResult | None:
        """Return what there is of a cell on the span: cut out of the whole ``result``, or put together from shards."""
        if result is not None:
            return result if self.whole else rows_of(result, self.rows())
        if not self._sharded:
            return None
        parts = self.store.parts(key)
        if not self.whole:
            return parts.read(self.span)
        shards = parts.tiling(batches)
        if not shards:
            return None
        result = joined(shards)
        self.store.put_cell(result)
        parts.clear()
        return result
