"""Parts of a cell on disk: what each shard of a matrix has found, until they are put together."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ismn_cli.core.parts import Span
from ismn_cli.core.records import CellResult
from ismn_cli.core.storage import move_aside, names_in, parsed, read_bytes, remove_folder, write_text

_NAME = re.compile(r"batches-(\d{1,9})-(\d{1,9})\.json")


class PartFiles:
    """The parts of the cell ``key``, in the folder ``folder`` of the store at ``root``."""

    def __init__(self, root: Path, folder: Path, key: str) -> None:
        self.root, self.folder, self.key = root, folder, key

    def put(self, span: Span, result: CellResult) -> None:
        """Store the result on the batches of ``span``. Raises UsageError where the disk refuses."""
        write_text(self._path(span), json.dumps(result.model_dump(mode="json")))

    def read(self, span: Span) -> CellResult | None:
        """Return the result on the batches of ``span``; None where there is none that can be trusted."""
        path = self._path(span)
        result = parsed(self.root, path, read_bytes(path), CellResult.model_validate_json)
        if result is None:
            return None
        if problem := self._problem(result, span):
            move_aside(self.root, path, problem)
            return None
        return result

    def tiling(self, batches: int) -> list[CellResult] | None:
        """Return parts that together hold each of so many batches once, in order; None where some are missing."""
        spans = sorted(self._spans(), key=lambda span: -span.last)
        found: list[CellResult] = []
        at = 0
        while at < batches:
            here = ((span, self.read(span)) for span in spans if span.first == at < span.last <= batches)
            span, part = next(((span, part) for span, part in here if part), (None, None))
            if span is None or part is None:
                return None
            found.append(part)
            at = span.last
        return found

    def clear(self) -> None:
        """Remove the parts: the cell is whole."""
        remove_folder(self.folder)

    def _spans(self) -> list[Span]:
        names = map(_NAME.fullmatch, names_in(self.folder))
        return [Span(int(name[1]), int(name[2])) for name in names if name]

    def _path(self, span: Span) -> Path:
        return self.folder / f"batches-{span.first:05d}-{span.last:05d}.json"

    def _problem(self, result: CellResult, span: Span) -> str:
        """Return what is wrong with a part, if anything."""
        size, count = result.cell.batch_size, result.cell.samples.count
        if result.cell.key() != self.key:
            return "it holds another cell"
        if len(result.ids) != max(0, min(span.last * size, count) - span.first * size):
            return "it does not hold the samples of these batches"
        return result.column_problem()
