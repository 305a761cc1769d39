"""The adversarial examples of one stored cell, gathered for other tools."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ismn_cli.core.environment import ismn_version
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import format_eps
from ismn_cli.core.store import Store
from ismn_cli.core.worst_case import attack_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ismn_cli.data.example_exports import Exported
    from ismn_cli.data.image_set import ImageSet

OPTIONS: dict[str, Callable[[CellResult], str]] = {
    "defence": lambda result: result.cell.defence.name,
    "knowledge": lambda result: result.cell.knowledge.value,
    "method": lambda result: attack_of(result.cell).method,
    "eps": lambda result: format_eps(attack_of(result.cell).threat.eps),
}
"""What a cell of a run is chosen by."""


def chosen_cell(run: Run, store: Store, wanted: dict[str, str]) -> CellResult:
    """Return the one attacked cell of ``run`` with the ``wanted`` values of `OPTIONS`.

    Raises UsageError: none has them, or several have, with what to type to choose one.
    """
    results = [result for key in run.record.cells if (result := store.cell(key)) and result.cell.attack is not None]
    if not results:
        raise UsageError(f"Run {run.record.id} has no stored adversarial examples.", "See: ismn list runs")
    left = results
    for name, value in wanted.items():
        there = dict.fromkeys(OPTIONS[name](result) for result in left)
        left = [result for result in left if OPTIONS[name](result) == value]
        if not left:
            raise UsageError(f"Run {run.record.id} has no cell with {name} {value}.", f"It has: {', '.join(there)}.")
    if len(left) > 1:
        raise UsageError(f"{len(left)} cells of run {run.record.id} fit.", f"Choose one by {_choices(left)}.")
    return left[0]


def _choices(results: Sequence[CellResult]) -> str:
    several = {name: dict.fromkeys(map(of, results)) for name, of in OPTIONS.items()}
    told = [f"--{name} ({', '.join(values)})" for name, values in several.items() if len(values) > 1]
    return ", ".join(told) or "another run: their settings differ"


def gather(run: Run, result: CellResult, store: Store, data_dir: Path | None) -> Exported:
    """Return the examples of ``result`` beside their clean images.

    Raises UsageError where the examples or the images that they were made from are not there.
    """
    import numpy as np

    from ismn_cli.data.example_exports import Exported

    recipe = _recipe(run)
    images = images_of(recipe, result, data_dir)
    adversarial = _adversarial(run, result, store, tuple(images.pixels.shape[1:]))
    answers = result.attacked or result.clean
    return Exported(
        adversarial=adversarial,
        clean=images.pixels.cpu().numpy(),
        ids=np.array(result.ids, dtype=np.int64),
        labels=np.array(result.labels, dtype=np.int64),
        outcomes=tuple(str(outcome) for outcome in result.outcomes()),
        predicted=np.array(answers.predicted, dtype=np.int64),
        linf=np.array(result.linf),
        l2=np.array(result.l2),
        metadata=_metadata(run, recipe, result, images.classes, adversarial),
    )


def _recipe(run: Run) -> MatrixRecipe:
    try:
        return MatrixRecipe.model_validate(run.record.recipe)
    except ValidationError:
        raise UsageError(f"The record of run {run.record.id} holds no matrix.", "See: ismn list runs") from None


def images_of(recipe: MatrixRecipe, result: CellResult, data_dir: Path | None) -> ImageSet:
    """Return the clean images of a cell, by their ids. Raises UsageError where the data are others now."""
    import torch

    from ismn_cli.data.loading import load_dataset

    whole = load_dataset(recipe.dataset.model_copy(update={"limit": None}), "test", data_dir, recipe.seed)
    position = {sample: i for i, sample in enumerate(whole.ids.tolist())}
    samples = result.cell.samples
    if whole.data_hash != samples.data or not set(result.ids) <= set(position):
        raise UsageError(
            f"{whole.name} here has other images than the run was made on (sha256 {whole.data_hash[:8]}, there "
            f"{samples.data[:8]}).",
            "Give the --data-dir of the run.",
        )
    return whole.take(torch.tensor([position[sample] for sample in result.ids], dtype=torch.long))


def _adversarial(run: Run, result: CellResult, store: Store, shape: tuple[int, ...]) -> NDArray[np.float32]:
    import numpy as np

    cell = result.cell
    examples = store.examples(cell.examples_key())
    parts = []
    for index in range(-(-len(result.ids) // cell.batch_size)):
        ids = list(result.ids[index * cell.batch_size : (index + 1) * cell.batch_size])
        found = examples.read(index)
        if found is None or found[0]["ids"].tolist() != ids or found[0]["adversarial"].shape != (len(ids), *shape):
            raise UsageError(
                f"The examples of run {run.record.id} are not whole in the store (batch {index}).",
                f"Make them again: remove the cell {cell.key()[:8]} from {store.root / 'cells'} and repeat the run.",
            )
        parts.append(found[0]["adversarial"])
    return np.concatenate(parts) if parts else np.zeros((0, *shape), np.float32)


def _metadata(
    run: Run, recipe: MatrixRecipe, result: CellResult, classes: Sequence[str], adversarial: NDArray[np.float32]
) -> dict[str, Any]:
    """Return what says where the examples come from; "data" is what `ismn score` takes the data set from."""
    cell = result.cell
    threat = attack_of(cell).threat
    return {
        "schema_version": 1,
        "made_by": f"ismn {ismn_version()}",
        "run": run.record.id,
        "cell_key": cell.key(),
        "examples_key": cell.examples_key(),
        "threat": {**threat.model_dump(mode="json"), "level": format_eps(threat.eps), "pixels": [0, 1]},
        "cell": cell.model_dump(mode="json"),
        "data": recipe.dataset.model_dump(exclude={"limit"}),
        "classes": list(classes),
        "adversarial_sha256": hashlib.sha256(adversarial.tobytes()).hexdigest(),
        "layout": "nchw",
    }
