"""What it saves to leave broken samples alone: passes, and whether the verdict on any sample changes.

The same white-box attacks are run twice on the same images: each on all of them, as a loop over torchattacks does, and
with `survivors`, where an attack leaves out what an attack before it has broken. Counted are images sent forward and
gradients taken; compared is each sample's worst case at every size. Attacks with a random start draw other starts for
a smaller batch, so a sample at the edge may fall in one run and hold in the other: such samples are counted, and with
--deterministic only attacks that draw nothing are run, where there must be none.

    python benchmarks/matrix_cost.py --limit 100
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.store import Store
from ismn_cli.stages.matrix import run_matrix

WANTED = 2.5
"""Times fewer passes that the survivors' run should need."""
RANDOM = ("fgsm", "bim", "pgd", "mifgsm", "apgd")
DETERMINISTIC = ("fgsm", "bim", "mifgsm", "nifgsm")


def main() -> int:
    """Run both, print the table; 1 where the saving is less than wanted or a deterministic verdict differs."""
    arguments = _parser().parse_args()
    methods = DETERMINISTIC if arguments.deterministic else RANDOM
    with tempfile.TemporaryDirectory() as home:
        full, few = (_run(arguments, methods, survivors, Path(home)) for survivors in (False, True))
    passes = [_passes(results) for results in (full, few)]
    differing, samples = _differences(full, few)
    ratio = passes[0] / passes[1]
    _show(arguments, passes, ratio, differing, samples)
    return 0 if ratio >= WANTED and not (arguments.deterministic and differing) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=100, help="images of cifar10-mini (default: 100)")
    parser.add_argument("--defence", default="none,ismn,ddsa", help="systems (default: none,ismn,ddsa)")
    parser.add_argument("--eps", default="8/255,0.2,0.3,0.4", help="sizes (default: those of matrix-cifar10)")
    parser.add_argument("--deterministic", action="store_true", help="only attacks that draw nothing at random")
    return parser


def _run(
    arguments: argparse.Namespace, methods: Sequence[str], survivors: bool, home: Path
) -> tuple[CellResult, ...]:
    recipe = MatrixRecipe.model_validate(
        {
            "name": "cost",
            "dataset": {"name": "cifar10-mini", "limit": arguments.limit},
            "defence": arguments.defence.split(","),
            "knowledge": "white",
            "attack": {"method": methods, "eps": arguments.eps.split(",")},
            "weights": "released",
            "survivors": survivors,
            "batch_size": 50,
        }
    )
    store = Store.open(home / str(survivors))
    return run_matrix(recipe, store, None, "cpu", "run", lambda _: None).results


def _passes(results: Sequence[CellResult]) -> int:
    return sum(result.forwards + result.backwards for result in results)


def _differences(full: Sequence[CellResult], few: Sequence[CellResult]) -> tuple[int, int]:
    """Return how many samples have another worst case at some size, and how many there are over all sizes."""
    differing = samples = 0
    last = {(r.cell.defence.name, r.cell.attack.threat.eps): r for r in few if r.cell.attack}  # the chain's end
    for (defence, eps), cut in last.items():
        worst = [
            r.outcomes()
            for r in full
            if r.cell.attack and r.cell.defence.name == defence and r.cell.attack.threat.eps <= eps
        ]
        held = [all(o is Outcome.SURVIVED for o in column) for column in zip(*worst, strict=True)]
        differing += sum(h != (o is Outcome.SURVIVED) for h, o in zip(held, cut.outcomes(), strict=True))
        samples += len(held)
    return differing, samples


def _show(
    arguments: argparse.Namespace, passes: Sequence[int], ratio: float, differing: int, samples: int
) -> None:
    table = Table(title=f"white-box matrix, {arguments.limit} images, {arguments.defence}, eps {arguments.eps}")
    for heading in ("run", "forward + backward passes"):
        table.add_column(heading)
    table.add_row("every attack on every sample", f"{passes[0]:,}")
    table.add_row("survivors only", f"{passes[1]:,}")
    console = Console()
    console.print(table)
    console.print(f"{ratio:.2f} times fewer passes; {differing} of {samples} worst cases differ")


if __name__ == "__main__":
    raise SystemExit(main())
