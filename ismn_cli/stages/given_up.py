"""What stands for a batch that no worker comes back from: unknown, but for what an attack before has broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ismn_cli.core.parts import joined, rows_of
from ismn_cli.core.records import CellResult
from ismn_cli.stages.cells import Bench, Held
from ismn_cli.stages.tasks import Earlier, Task

if TYPE_CHECKING:
    from ismn_cli.core.specs import Cell
    from ismn_cli.stages.jobs import Job


def given_up(bench: Bench, task: Task, index: int, earlier: Earlier, why: str) -> list[CellResult]:
    """Return the results on batch ``index`` of the attacked cells of ``task``; nothing is asked of any system.

    ``why`` is noted. What a later attack carries over is kept among the examples. Raises UsageError: a full disk.
    """
    if task.job is None:
        raise TypeError("without a clean result there is none")
    previous = earlier(task.job.previous.key(), index) if task.job.previous else None
    clean = [earlier(key, index) for key in task.clean]
    if previous is not None:
        _keep(bench, task.job, index, Held(clean[0], previous), why)
    pairs = zip(task.cells, clean, strict=True)
    return [_unknown(cell, before, previous, why) for (_, cell), before in pairs]


def _unknown(cell: Cell, clean: CellResult, previous: CellResult | None, why: str) -> CellResult:
    n = len(clean.ids)
    lost = clean.model_copy(
        update={
            "cell": cell,
            "attacked": clean.clean,
            "failed": (True,) * n,
            "linf": (0.0,) * n,
            "l2": (0.0,) * n,
            "via": ("",) * n,
            "draws_attacked": clean.draws_clean,
            "judge_seconds": 0.0,
            "notes": (why,),
        }
    )
    broken = Held(clean, previous).broken()
    if previous is None or not any(broken):
        return lost
    rows = [rows_of(previous if took else lost, slice(i, i + 1)) for i, took in enumerate(broken)]
    return joined(rows).model_copy(update={"cell": cell, "carried": sum(broken), "notes": (why,)})


def _keep(bench: Bench, job: Job, index: int, held: Held, why: str) -> None:
    """Keep the examples that the next attack carries over, unless the attack's own are there."""
    examples = bench.examples(job.cells[0][1].examples_key())
    if examples.read(index) is None:
        arrays, texts = bench.unattacked(index, held)
        texts["notes"] = [why]
        examples.put_batch(index, arrays, {name: json.dumps(text) for name, text in texts.items()})
