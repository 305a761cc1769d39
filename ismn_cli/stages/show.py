"""`ismn show`: a run's cell and sample, chosen by what was said of them, and the life of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.errors import UsageError, unknown_name
from ismn_cli.core.picks import TOLD, contests, main_contests, rows
from ismn_cli.core.records import CellResult, Outcome
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import Cell, format_eps
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import attack_of

if TYPE_CHECKING:
    from ismn_cli.core.lives import Life, Picture

BESIDE = 3
"""Samples of an outcome that are named of a cell."""


@dataclass(frozen=True)
class Wanted:
    """What was said of a cell; None: anything will do."""

    defence: str | None = None
    method: str | None = None
    knowledge: str | None = None
    eps: float | None = None

    def among(self, results: Sequence[CellResult]) -> list[CellResult]:
        """Return the cells that it fits. Raises UsageError where there is none, with what there is."""
        left = list(results)
        for what, wanted, of in self._said():
            known = list(dict.fromkeys(map(of, left)))
            left = [result for result in left if of(result) == wanted]
            if not left:
                raise unknown_name(what, wanted, known)
        return left

    def _said(self) -> Iterator[tuple[str, str, Callable[[CellResult], str]]]:
        if self.defence is not None:
            yield "defence of this run", self.defence, lambda result: result.cell.defence.name
        if self.knowledge is not None:
            yield "knowledge level among these cells", self.knowledge, lambda result: str(result.cell.knowledge)
        if self.method is not None:
            yield "attack among these cells", self.method, lambda result: attack_of(result.cell).method
        if self.eps is not None:
            yield "size among these cells", format_eps(self.eps), lambda result: _size(result)


@dataclass(frozen=True)
class Shown:
    """A sample's life, drawn again from the model and the images."""

    result: CellResult
    life: Life
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]


def run_to_show(store: Store, name: str) -> Run:
    """Return the run called ``name``; the "latest" is the newest with attacks. Raises UsageError."""
    if name != "latest":
        return store.run(name)
    found = next((run for run in store.runs() if _attacked(store, run)), None)
    if found is None:
        raise UsageError(f"There is no run with attacks in '{store.root}' yet.", "Make one: ismn run quickstart")
    return found


def attacked_results(store: Store, run: Run) -> list[CellResult]:
    """Return the attacked cells of a run. Raises UsageError where there are none."""
    found = _attacked(store, run)
    if not found:
        raise UsageError(
            f"Run {run.record.id} has no attacked cells in the store.", "Repeat it, or see the others: ismn list runs"
        )
    return found


def _attacked(store: Store, run: Run) -> list[CellResult]:
    cells = (store.cell(key) for key in run.record.cells)
    return [result for result in cells if result is not None and result.attacked is not None]


def worth_showing(results: Sequence[CellResult], whole: bool) -> dict[str, dict[Outcome, list[int]]]:
    """Return positions of samples for each outcome of each cell, by its key, those that several systems share first.

    ``whole``: of every cell, else of one attack at each level.
    """
    found: dict[str, dict[Outcome, list[int]]] = {}
    for contest in contests(results) if whole else main_contests(results):
        shared = [pick for row in rows(contest) for pick in row]
        for result in contest:
            own = [pick.position for pick in shared if pick.result is result]
            found[result.cell.key()] = _by_outcome(result, own)
    return found


def _by_outcome(result: CellResult, first: Sequence[int]) -> dict[Outcome, list[int]]:
    outcomes = result.outcomes()
    order = dict.fromkeys((*first, *range(len(outcomes))))
    return {told: [i for i in order if outcomes[i] is told][:BESIDE] for told in TOLD}


def choose(run: Run, results: Sequence[CellResult], sample: int) -> tuple[CellResult, int]:
    """Return the cell of ``results`` in which to show a sample, and its position there.

    A defended system before an undefended one, then where the attack has told something, then in one of
    `main_contests`, then the first. Raises UsageError for a sample that is in none.
    """
    found = [(result, result.ids.index(sample)) for result in results if sample in result.ids]
    if not found:
        ids = results[0].ids
        raise UsageError(
            f"Run {run.record.id} has no sample {sample} among its {len(ids):,}: {', '.join(map(str, ids[:8]))}, ...",
            f"See some worth showing: ismn show {run.record.id}",
        )
    main = {result.cell.key() for contest in main_contests(results) for result in contest}
    return min(found, key=lambda pair: (*_dullness(*pair), pair[0].cell.key() not in main))


def _dullness(result: CellResult, position: int) -> tuple[bool, bool]:
    entry = SYSTEMS.get(result.cell.defence.name)
    return entry is not None and entry.policy == "none", result.outcomes()[position] not in TOLD


def life_of(
    run: Run, store: Store, result: CellResult, position: int, data_dir: Path | None, device: str
) -> Shown:
    """Take a sample through its system again.

    Raises UsageError: images or weights that are not those of the cell, examples that are no longer stored.
    """
    from ismn_cli.core.recipe_files import validate
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device
    from ismn_cli.stages.lives import Scene
    from ismn_cli.stages.own_base import on_own_base
    from ismn_cli.stages.pinned import find_pinned
    from ismn_cli.stages.user_defences import setup_of
    from ismn_cli.stages.weights import on_device

    recipe, chosen = validate(dict(run.record.recipe)), pick_device(device)
    if not isinstance(recipe, MatrixRecipe):
        raise UsageError(f"Run {run.record.id} is no matrix.", "See the runs: ismn list runs")
    images = load_dataset(recipe.dataset, "test", data_dir, recipe.seed)
    if images.samples() != result.cell.samples:
        raise UsageError(
            f"These images of {images.name} are not those that run {run.record.id} was made on.",
            "Give their folder: --data-dir DIR",
        )
    recipe, own = on_own_base(recipe, images, store, chosen)
    setup = setup_of(recipe, data_dir, chosen)
    system = find_pinned(result.cell.defence, result.cell.classifier, store, images.kind, own, setup)
    if system is None:
        raise _gone(result.cell)
    on_device(system.pipeline, chosen)
    ((life, pictures),) = Scene(result, system, images, store, chosen).lives([position])
    return Shown(result, life, pictures, tuple(images.classes))


def _gone(cell: Cell) -> UsageError:
    own, base = cell.defence, cell.classifier
    around = f" around a classifier with sha256 {base.weights}" if own.weights != base.weights else ""
    return UsageError(
        f"No system here has the weights and settings that {own.name} had in this run: sha256 {own.weights}{around}.",
        "Others are not used in their place. Repeat the run, or show another defence of it: --defence NAME",
    )


def _size(result: CellResult) -> str:
    return format_eps(attack_of(result.cell).threat.eps)
