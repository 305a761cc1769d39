"""A store of many runs on many samples, written fast: the text of one cell, under the keys of many.

`python big_store.py FOLDER RUNS SAMPLES` writes it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from report_cells import cell, digest, result, samples

from ismn_cli.core.records import Answers, CellResult, Environment
from ismn_cli.core.specs import Cell, Knowledge, Subject
from ismn_cli.core.store import Store

ENVIRONMENT = Environment(ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1)
SIZES = (8 / 255, 0.1, 0.2, 0.3)
DEFENCES = ("none", "ismn", "magnet", "ddsa", "prn")


def fill(root: Path, runs: int, n: int) -> int:
    """Write ``runs`` runs of two cells on ``n`` samples, clean and attacked; return how many cells that is."""
    store, written = Store(root), set()
    texts = {attacked: _rest(_measured(n, attacked)) for attacked in (False, True)}
    for number in range(runs):
        cells = _cells(number, n)
        for where in cells:
            path = root / "cells" / where.key()[:2] / f"{where.key()}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{{"cell": {where.model_dump_json()}, {texts[where.attack is not None]}')
            written.add(where.key())
        run = store.start_run("attack", f"made-{number}", {}, ENVIRONMENT, digest(str(number)))
        run.update(status="done", cells=tuple(where.key() for where in cells))
    return len(written)


def _cells(number: int, n: int) -> tuple[Cell, Cell]:
    """Return a system of its own every eighth run, under one attack of one level at one size."""
    name = DEFENCES[number // 8 % len(DEFENCES)]
    common = {"samples": samples(n=n), "defence": Subject(name=name, weights=digest(f"{name}{number // 40}"))}
    level = Knowledge.WHITE if number % 8 > 3 else Knowledge.GRAY
    attacked = cell(name, "pgd", SIZES[number % 4], knowledge=level, **common)
    return cell(name, None, seed=number % 8, **common), attacked


def _measured(n: int, attacked: bool) -> CellResult:
    chance = random.Random(n)
    where = cell("magnet", "pgd" if attacked else None, 0.1, samples=samples(n=n))
    changes: dict[str, Any] = {"labels": tuple(i % 10 for i in range(n))}
    if attacked:
        changes |= {name: tuple(chance.random() for _ in range(n)) for name in ("linf", "l2")}
        changes["failed"] = tuple(chance.random() < 0.001 for _ in range(n))
    given = [_answers(n, chance) for _ in range(1 + attacked)]
    return result(where, *given, **changes)


def _answers(n: int, chance: random.Random) -> Answers:
    flags = tuple(chance.random() < 0.2 for _ in range(n))
    return Answers(
        predicted=tuple(i % 10 if chance.random() < 0.7 else chance.randrange(10) for i in range(n)),
        flagged=flags,
        rejected=flags,
        score=tuple(chance.random() for _ in range(n)),
        loops=tuple(chance.randrange(4) for _ in range(n)),
    )


def _rest(measured: CellResult) -> str:
    """Return the stored text of a result after its cell."""
    return json.dumps(measured.model_dump(mode="json", exclude={"cell"}))[1:]


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
