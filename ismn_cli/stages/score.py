"""Examples made elsewhere, judged on systems as any others are: checked first, then stored as cells of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.settings import build_model
from ismn_cli.core.specs import AttackSpec, Cell, DataKind, Knowledge, Subject, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.stages.cells import Attacker, Bench, FindExamples, Held
from ismn_cli.stages.jobs import Job
from ismn_cli.stages.plan import AttacksAt, Matrix
from ismn_cli.stages.resolve import Resolved, resolve
from ismn_cli.stages.user_defences import reference_of, setup_of
from ismn_cli.stages.weights import on_device

if TYPE_CHECKING:
    from torch import Tensor

    from ismn_cli.data.example_checks import Checked
    from ismn_cli.data.example_files import Given
    from ismn_cli.engine.craft import Proposed
    from ismn_cli.stages.cells import Batch

METHOD = "examples"
"""Of cells whose examples were made elsewhere, by nobody knows what attack."""
ELSEWHERE = "made elsewhere"
OF_ONE_SYSTEM = (Knowledge.WHITE, Knowledge.ADAPTIVE)


def score_recipe(options: Mapping[str, Any], given: Given, drop: bool) -> MatrixRecipe:
    """Return the recipe of a scoring: a matrix whose one attack is the file. Raises UsageError for bad options."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", given.place.stem).strip(".-") or METHOD
    grid = {name: options[name] for name in ("eps", "norm") if options.get(name) is not None}
    params = {"file": str(given.place.absolute()), "sha256": given.sha256, "drop_violations": drop}
    mapping = {name: value for name, value in options.items() if name not in grid and value is not None}
    grid |= {"method": METHOD, "eot": 1, "params": {METHOD: params}}
    mapping |= {"name": f"score-{stem}"[:80], "attack": grid}
    mapping.setdefault("knowledge", Knowledge.BLACK)
    recipe = build_model(MatrixRecipe, mapping, "the scoring", "Write, for example: --eps 8/255 --norm linf")
    for name in recipe.defence:
        if name not in SYSTEMS:
            reference_of(name)
    _check_knowledge(recipe)
    return recipe


def _check_knowledge(recipe: MatrixRecipe) -> None:
    if len(recipe.knowledge) != 1 or recipe.knowledge[0] is Knowledge.CLEAN or len(recipe.attack.eps) != 1:
        raise UsageError(
            "Examples were made by one attacker, at one size.", "Give one --knowledge of black, gray, white, adaptive."
        )
    if recipe.knowledge[0] in OF_ONE_SYSTEM and len(recipe.defence) > 1:
        raise UsageError(
            f"{recipe.knowledge[0]} examples are made on one system, not on {len(recipe.defence)}.",
            "Give the --defence that they were made on; on others they are transferred: --knowledge black.",
        )


@dataclass(frozen=True)
class ScoreMatrix(Matrix):
    """A matrix whose examples are given."""

    checked: Checked = field(kw_only=True)

    def bench(self, examples: FindExamples) -> Bench:
        """See `Matrix.bench`."""
        return GivenBench(examples, self)

    def _cell(self, system: Resolved, knowledge: Knowledge, attack: AttackSpec | None) -> Cell:
        cell = super()._cell(system, knowledge, attack)
        if attack is None or knowledge is not Knowledge.BLACK:
            return cell
        # What they were made on is not known, but for this: it was not the system that is judged.
        return cell.model_copy(update={"sources": (Subject(name=ELSEWHERE),)})


class GivenBench(Bench):
    """A bench on which nothing is attacked: examples are taken as given, brought into ball and box, and judged."""

    def __init__(self, examples: FindExamples, matrix: ScoreMatrix) -> None:
        recipe = matrix.recipe
        super().__init__(examples, matrix.images, matrix.device, recipe.batch_size, recipe.seed)
        self.checked = matrix.checked

    def _attack(self, job: Job) -> Attacker:
        def never(model: object, x: Tensor, y: Tensor) -> Proposed:
            raise RuntimeError("examples made elsewhere are not attacked")

        return Attacker(never, {})

    def _craft(self, job: Job, attacker: Attacker, x: Tensor, y: Tensor, index: int, held: Held | None) -> Batch:
        import torch

        from ismn_cli.engine.ball import distances, project

        _, arrays, texts = self._carried(None, index, x)
        here = slice(index * self.batch_size, index * self.batch_size + len(x))
        strayed = self.checked.strayed[here].to(x.device)
        inside = project(self.checked.adversarial[here].to(x), x, job.attack.threat)
        adversarial = torch.where(strayed[:, None, None, None], x, inside)
        linf, l2 = distances(adversarial, x)
        columns = {"adversarial": adversarial.contiguous(), "failed": strayed, "linf": linf, "l2": l2}
        arrays |= {name: column.cpu().numpy() for name, column in columns.items()}
        texts["notes"] = list(self.checked.notes)
        return arrays, {name: json.dumps(text) for name, text in texts.items()}


def plan_score(recipe: MatrixRecipe, given: Given, store: Store, data_dir: Path | None, device: str) -> ScoreMatrix:
    """Check the examples against their images, then find the systems that they are judged on.

    Raises UsageError naming every violation, before anything is judged.
    """

    from ismn_cli.engine.device import pick_device

    setup = setup_of(recipe, data_dir, pick_device(device))

    def found(kind: DataKind) -> tuple[Resolved, ...]:
        return tuple(resolve(name, recipe.weights, store, kind, setup=setup) for name in dict.fromkeys(recipe.defence))

    return score_matrix(recipe, given, found, data_dir, device)


def score_matrix(
    recipe: MatrixRecipe,
    given: Given,
    systems: Callable[[DataKind], tuple[Resolved, ...]],
    data_dir: Path | None,
    device: str,
) -> ScoreMatrix:
    """Return the checked matrix of a scoring on ``systems``, which are looked for last. Raises UsageError."""
    from ismn_cli.data.example_checks import check_examples
    from ismn_cli.data.loading import load_dataset
    from ismn_cli.engine.device import pick_device

    chosen = pick_device(device)
    images = load_dataset(recipe.dataset, "test", data_dir, recipe.seed)
    threat = ThreatModel(norm=recipe.attack.norm, eps=recipe.attack.eps[0])
    limited = recipe.dataset.limit is not None
    drop = bool(recipe.attack.params[METHOD]["drop_violations"])
    checked = check_examples(given, images, threat, limited=limited, seed=recipe.seed, drop=drop)
    found = systems(images.kind)
    for system in found:
        on_device(system.pipeline, chosen)
    spec = AttackSpec(method=METHOD, threat=threat, params={"sha256": given.sha256})
    attacks: AttacksAt = {recipe.knowledge[0]: (spec,)}
    return ScoreMatrix(recipe, checked.images, found, attacks, (), chosen, checked=checked)
