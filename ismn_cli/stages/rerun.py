"""A stored result repeated from its record: the same weights, images, attacks, seed and batches, in an empty store."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.datasets import named
from ismn_cli.core.environment import capture
from ismn_cli.core.errors import UsageError
from ismn_cli.core.paired import sample_differences
from ismn_cli.core.recipes import AttackGrid, DataChoice, MatrixRecipe
from ismn_cli.core.records import CellResult, Environment, RunRecord
from ismn_cli.core.repeated import Repeated
from ismn_cli.core.specs import AttackSpec, Cell, DataKind, Knowledge, Samples, Subject
from ismn_cli.core.store import Store
from ismn_cli.stages.bases import Base
from ismn_cli.stages.matrix import OnProgress, compute
from ismn_cli.stages.own_base import on_own_base
from ismn_cli.stages.pinned import find_pinned
from ismn_cli.stages.plan import AttacksAt, Matrix
from ismn_cli.stages.resolve import Resolved
from ismn_cli.stages.score import METHOD, score_matrix
from ismn_cli.stages.user_defences import DefenceSetup, setup_of
from ismn_cli.stages.weights import on_device

SCRATCH = "reruns"


@dataclass(frozen=True)
class Recorded:
    """What is to be repeated."""

    name: str
    recipe: MatrixRecipe
    results: tuple[CellResult, ...]
    environment: Environment | None
    """Where it was made; None where only a cell is known."""
    origins: tuple[str, ...] = ()
    """Where the weights came from then, as "none: the released weights"."""


def recorded_of(found: RunRecord | CellResult, store: Store) -> Recorded:
    """Return what a record describes, with its results from ``store``.

    Raises UsageError where it cannot be repeated.
    """
    if isinstance(found, CellResult):
        _check_repeatable(found)
        return Recorded(f"cell {found.cell.key()[:8]}", _recipe_of(found.cell), (found,), None)
    if found.kind == "train":
        raise UsageError(
            f"{found.id} is a training: rerun repeats what was measured.",
            f"Train it again with: ismn train --fresh, and its settings; its weights have sha256 {found.weights}.",
        )
    if not found.cells:
        raise UsageError(f"Run {found.id} has no results yet.", "Let it finish first: repeat its command.")
    results = [(key, store.cell(key)) for key in found.cells]
    missing = [key[:8] for key, result in results if result is None]
    if missing:
        names = ", ".join(missing[:5])
        raise UsageError(
            f"{len(missing)} of the {len(results)} results of {found.id} are not in '{store.root}': {names}.",
            "Give the store that holds them: --store DIR",
        )
    try:
        recipe = MatrixRecipe.model_validate(found.recipe)
    except ValidationError:
        raise UsageError(f"The record of {found.id} holds no matrix.", "It was written by another ismn.") from None
    return Recorded(found.id, recipe, tuple(r for _, r in results if r), found.environment, found.notes)


def _check_repeatable(result: CellResult) -> None:
    attack = result.cell.attack
    if attack is not None and attack.method == METHOD:
        raise UsageError(
            "The examples of this cell were made elsewhere, and a cell does not say where they lie.",
            "Give the record of its run: STORE/runs/score-.../record.json",
        )


def _recipe_of(cell: Cell) -> MatrixRecipe:
    """Return the recipe of a cell by itself."""
    attack = cell.attack
    return MatrixRecipe(
        name="rerun",
        dataset=_choice(cell.samples),
        defence=(cell.defence.name,),
        knowledge=(cell.knowledge,),
        attack=AttackGrid(eot=attack.eot, norm=attack.threat.norm) if attack else AttackGrid(),
        survivors=bool(cell.after),
        draws=cell.draws,
        seed=cell.seed,
        batch_size=cell.batch_size,
    )


def _choice(samples: Samples) -> DataChoice:
    """Read "celeba/Smiling@128" and how many images were taken."""
    there = named(samples.dataset)
    return DataChoice(
        name=there.name,
        limit=samples.count if samples.limited else None,
        attribute=there.rest if "attribute" in there.options else None,
        image_size=there.size if "image_size" in there.options else None,
    )


def plan_rerun(recorded: Recorded, store: Store, data_dir: Path | None, device: str) -> Matrix:
    """Find and check all that a repetition needs, by what is pinned in the record.

    Raises UsageError before any work is done: other images, weights that are not here, examples that changed, a
    record that this version would not make.
    """
    matrix = _score_plan(recorded, store, data_dir, device) or _plan(recorded, store, data_dir, device)
    _check_images(recorded, matrix.images.samples())
    made = {matrix.clean_cell(system).key() for system in matrix.systems}
    made |= {cell.key() for job in matrix.jobs() for _, cell in job.cells}
    others = [result.cell.key()[:8] for result in recorded.results if result.cell.key() not in made]
    if others:
        raise UsageError(
            f"{len(others)} of {len(recorded.results)} results of {recorded.name} would be made otherwise by this "
            f"version: {', '.join(others[:5])}.",
            "Repeat it with the ismn that made it.",
        )
    return matrix


def _plan(recorded: Recorded, store: Store, data_dir: Path | None, device: str) -> Matrix:
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device

    chosen = pick_device(device)
    recipe = recorded.recipe
    images = load_dataset(recipe.dataset, "test", data_dir, recipe.seed)
    _check_images(recorded, images.samples())
    recipe, own = on_own_base(recipe, images, store, chosen)
    systems, sources = pinned(recorded, store, images.kind, setup_of(recipe, data_dir, chosen), own)
    for system in (*systems, *sources):
        on_device(system.pipeline, chosen)
    return Matrix(recipe, images, systems, _attacks(recorded.results), sources, chosen)


def _score_plan(recorded: Recorded, store: Store, data_dir: Path | None, device: str) -> Matrix | None:
    """Return the plan of a scoring; None for any other run."""
    params = recorded.recipe.attack.params.get(METHOD)
    if params is None:
        return None
    from ismn_cli.data.example_files import read_examples
    from ismn_cli.engine.device import pick_device

    given = read_examples(Path(str(params.get("file"))))
    if given.sha256 != params.get("sha256"):
        raise UsageError(
            f"'{given.place}' has changed since it was scored (sha256 {given.sha256[:8]}, then "
            f"{str(params.get('sha256'))[:8]}).",
            "Put the file back that was scored.",
        )
    setup = setup_of(recorded.recipe, data_dir, pick_device(device))
    return score_matrix(
        recorded.recipe, given, lambda kind: pinned(recorded, store, kind, setup)[0], data_dir, device
    )


def _check_images(recorded: Recorded, here: Samples) -> None:
    there = recorded.results[0].cell.samples
    if here != there:
        found = sample_differences(there, here) or [f"{there.total:,} images in the split and {here.total:,}"]
        raise UsageError(
            f"The images are not those of {recorded.name}: {'; '.join(found)} (then and here).",
            "Give the --data-dir that it was made with.",
        )


def _attacks(results: Sequence[CellResult]) -> AttacksAt:
    """Return every attack as it is pinned in the cells; what a randomised system adds to one is added again."""
    found: dict[Knowledge, dict[str, AttackSpec]] = {}
    for cell in (result.cell for result in results):
        for attack in (*cell.after, *([cell.attack] if cell.attack else [])):
            plain = attack.model_copy(update={"eot": 1})
            found.setdefault(cell.knowledge, {}).setdefault(plain.key(), plain)
    return {knowledge: tuple(attacks.values()) for knowledge, attacks in found.items()}


def pinned(
    recorded: Recorded, store: Store, kind: DataKind, setup: DefenceSetup, own: Base | None = None
) -> tuple[tuple[Resolved, ...], tuple[Resolved, ...]]:
    """Return the recorded systems, and those that examples were transferred from.

    Raises UsageError naming all whose weights are not here, and how to get them.
    """
    cells = [result.cell for result in recorded.results]
    systems = list(dict.fromkeys((cell.defence, cell.classifier) for cell in cells))
    transferred = [c for c in cells if c.attack is not None and c.attack.method != METHOD]
    sources = list(dict.fromkeys(source for cell in transferred for source in cell.sources))
    wanted: list[tuple[Subject, Subject | None]] = [*systems, *((source, None) for source in sources)]
    found = [find_pinned(subject, base, store, kind, own, setup) for subject, base in wanted]
    lost = [subject for (subject, _), here in zip(wanted, found, strict=True) if here is None]
    if lost:
        raise _lost(recorded, lost, store)
    here = [system for system in found if system is not None]
    return tuple(here[: len(systems)]), tuple(here[len(systems) :])


def _lost(recorded: Recorded, lost: Sequence[Subject], store: Store) -> UsageError:
    origins = dict(note.split(": ", 1) for note in recorded.origins if ": " in note)
    told = [_weights(subject, origins) for subject in lost]
    names = "; ".join(told)
    hints = [f"Give the store that holds the training: --store DIR (looked in '{store.root}')"]
    if any(origins.get(subject.name, "").startswith("the released") for subject in lost) and recorded.environment:
        hints.insert(0, f"Released weights: pip install ismn-cli=={recorded.environment.ismn}")
    if any(subject.name not in SYSTEMS for subject in lost):
        hints.insert(0, "Code of your own has to be as it was then, and given the same arguments and images")
    return UsageError(f"The weights of {recorded.name} are not here: {names}.", ". ".join(hints) + ".")


def _weights(subject: Subject, origins: dict[str, str]) -> str:
    came = f", then {origins[subject.name]}" if subject.name in origins else ""
    return f"{subject.name} (sha256 {subject.weights[:16]}{came})"


def rerun(recorded: Recorded, matrix: Matrix, scratch: Store, on_progress: OnProgress) -> list[Repeated]:
    """Compute every recorded cell again; ``scratch`` keeps what is done if it is cut. Raises UsageError."""
    recipe = matrix.recipe.model_dump(mode="json")
    run = scratch.start_run("run", "rerun", recipe, here(matrix), matrix.identity())
    with run.lock():
        found, _ = compute(matrix, scratch, on_progress, lambda cells: None)
    return [Repeated(result, found[result.cell.key()]) for result in recorded.results]


def here(matrix: Matrix) -> Environment:
    """Return where the repetition takes place."""
    import torch

    return capture(str(matrix.device), torch.get_num_threads())


def open_scratch(recorded: Recorded, store: Store, environment: Environment, fresh: bool) -> Store:
    """Return the store of this repetition in this environment: empty, but for what one that was cut has left.

    No result from anywhere else is ever in it. ``fresh`` empties it.
    """
    content = [sorted(result.cell.key() for result in recorded.results), environment.model_dump(mode="json")]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    root = store.local().root / SCRATCH / digest[:16]
    if fresh:
        discard(Store(root))
    return Store.open(root)


def discard(scratch: Store) -> None:
    """Remove the store of a repetition that is done with."""
    shutil.rmtree(scratch.root, ignore_errors=True)
