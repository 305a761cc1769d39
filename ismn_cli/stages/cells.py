"""One cell at a time: examples crafted or taken from the store batch by batch, then judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ismn_cli.core.examples import Examples
from ismn_cli.core.records import Answers, CellResult
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge
from ismn_cli.core.store import Store
from ismn_cli.stages.resolve import Resolved

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.engine.craft import Attack
    from ismn_models.pipeline import Pipeline

    Arrays = Mapping[str, Any]

OnBatch = Callable[[int, Sequence[str]], None]
"""(images of the batch, what became of each)."""


@dataclass(frozen=True)
class Job:
    """An attack and the cells that share its examples."""

    attack: AttackSpec
    knowledge: Knowledge
    cells: tuple[tuple[Resolved, Cell], ...]

    def without(self, found: Container[str]) -> Job:
        """Return the job with the cells that are not in ``found``."""
        return replace(self, cells=tuple(pair for pair in self.cells if pair[1].key() not in found))

    def target(self) -> nn.Module:
        """Return the module that the attacker may differentiate."""
        pipeline = self.cells[0][0].pipeline
        return pipeline.base if self.knowledge is Knowledge.GRAY else pipeline

    def label(self) -> str:
        """Return a short name: the attack, and the defence whose score is shown."""
        return f"{self.attack.label()} {self.knowledge}, {self.cells[-1][0].subject.name}"


class Part(NamedTuple):
    """One batch of one cell."""

    answers: Answers
    seconds: float


class Bench:
    """Images on their way through attacks and systems. Pixels are in [0, 1]."""

    def __init__(self, store: Store, images: ImageSet, device: torch.device, batch_size: int, seed: int) -> None:
        self.store, self.images, self.device = store, images, device
        self.batch_size, self.seed = batch_size, seed
        self.ids, self.labels = tuple(images.ids.tolist()), tuple(images.labels.tolist())

    def clean(self, cell: Cell, pipeline: Pipeline, on_batch: OnBatch) -> CellResult:
        """Judge the images as they are, and store the cell."""
        parts = []
        for index, (x, _) in enumerate(self._batches()):
            parts.append(self._judge(pipeline, x, index))
            on_batch(len(x), self._right_or_wrong(index, parts[-1].answers))
        answers, seconds = _joined(parts)
        result = CellResult(cell=cell, ids=self.ids, labels=self.labels, clean=answers, judge_seconds=seconds)
        self.store.put_cell(result)
        return result

    def attack(self, job: Job, clean: Mapping[str, Answers], on_batch: OnBatch) -> list[CellResult]:
        """Attack the images, judge every system of ``job`` on the results, and store the cells.

        ``clean`` holds each system's answers without attack, by its name.
        """
        examples = self.store.examples(job.cells[0][1].examples_key())
        parts: list[list[Part]] = [[] for _ in job.cells]
        crafted = []
        for index, (x, adversarial, batch) in enumerate(self._crafted(job, examples)):
            crafted.append(batch)
            for (system, _), column in zip(job.cells, parts, strict=True):
                column.append(self._judge(system.pipeline, adversarial, index))
            on_batch(len(x), self._outcomes(job, clean, index, parts[-1][-1].answers, batch))
        results = [
            self._result(cell, clean[system.subject.name], column, crafted)
            for (system, cell), column in zip(job.cells, parts, strict=True)
        ]
        for result in results:
            self.store.put_cell(result)
        return results

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        for x, y in self.images.batches(self.batch_size):
            yield x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def _crafted(self, job: Job, examples: Examples) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Yield (images, adversarial images, columns without pixels) a batch; crafted only if missing."""
        import torch

        from ismn_cli.attacks.adapter import make_attack

        attack = make_attack(job.attack, len(self.images.classes))
        for index, (x, y) in enumerate(self._batches()):
            arrays = self._stored(examples, index, x)
            if arrays is None:
                arrays = self._craft(job, attack, x, y, index)
                notes = {"notes": json.dumps(arrays.pop("notes"))}
                examples.put_batch(index, arrays, notes)
            pixels = torch.from_numpy(arrays["adversarial"]).to(x.device, memory_format=torch.channels_last)
            columns = {name: arrays[name].tolist() for name in ("failed", "linf", "l2", "cost", "seconds")}
            if any(columns["failed"]):
                columns["notes"] = json.loads((examples.metadata(index) or {}).get("notes", "[]"))
            yield x, pixels, columns

    def _stored(self, examples: Examples, index: int, x: Tensor) -> dict[str, Any] | None:
        """Return a stored batch, unless it is of other samples than these."""
        arrays = examples.batch(index)
        if arrays is None or arrays["ids"].tolist() != list(self._of(index, self.ids)):
            return None
        return arrays if arrays["adversarial"].shape == tuple(x.shape) else None

    def _craft(self, job: Job, attack: Attack, x: Tensor, y: Tensor, index: int) -> dict[str, Any]:
        import numpy as np

        from ismn_cli.engine.craft import craft_batch
        from ismn_cli.engine.rng import derive

        seed = derive(self.seed, job.attack.key(), index)
        crafted = craft_batch(job.target(), attack, x, y, job.attack.threat, seed)
        return {
            "ids": np.array(self._of(index, self.ids)),
            "adversarial": crafted.adversarial.contiguous().cpu().numpy(),
            "failed": crafted.failed.cpu().numpy(),
            "linf": crafted.linf.cpu().numpy(),
            "l2": crafted.l2.cpu().numpy(),
            "cost": np.array([crafted.forwards, crafted.backwards]),
            "seconds": np.array([crafted.seconds]),
            "notes": crafted.notes,
        }

    def _judge(self, pipeline: Pipeline, x: Tensor, index: int) -> Part:
        from ismn_cli.engine.judge import judge
        from ismn_cli.engine.rng import derive

        return Part(*judge(pipeline, [x], seed=derive(self.seed, "judge", index)))

    def _result(self, cell: Cell, clean: Answers, parts: Sequence[Part], crafted: Sequence[Arrays]) -> CellResult:
        answers, seconds = _joined(parts)
        return CellResult(
            cell=cell,
            ids=self.ids,
            labels=self.labels,
            clean=clean,
            attacked=answers,
            failed=_column(crafted, "failed"),
            linf=_column(crafted, "linf"),
            l2=_column(crafted, "l2"),
            forwards=sum(batch["cost"][0] for batch in crafted),
            backwards=sum(batch["cost"][1] for batch in crafted),
            craft_seconds=sum(_column(crafted, "seconds")),
            judge_seconds=seconds,
            notes=tuple(dict.fromkeys(note for batch in crafted for note in batch.get("notes", ()))),
        )

    def _of(self, index: int, column: Sequence[Any]) -> Sequence[Any]:
        return column[index * self.batch_size : (index + 1) * self.batch_size]

    def _right_or_wrong(self, index: int, answers: Answers) -> list[str]:
        columns = zip(answers.predicted, answers.rejected, self._of(index, self.labels), strict=True)
        return ["right" if predicted == label and not no else "wrong" for predicted, no, label in columns]

    def _outcomes(
        self, job: Job, clean: Mapping[str, Answers], index: int, attacked: Answers, batch: Arrays
    ) -> list[str]:
        """Return what became of the batch's samples under the last system of the job."""
        system, cell = job.cells[-1]
        before = clean[system.subject.name]
        part = CellResult(
            cell=cell,
            ids=tuple(self._of(index, self.ids)),
            labels=tuple(self._of(index, self.labels)),
            clean=Answers(**{name: self._of(index, column) for name, column in before}),
            attacked=attacked,
            failed=tuple(batch["failed"]),
        )
        return [str(outcome) for outcome in part.outcomes()]


def _column(batches: Sequence[Arrays], name: str) -> tuple[Any, ...]:
    return tuple(value for batch in batches for value in batch[name])


def _joined(parts: Sequence[Part]) -> tuple[Answers, float]:
    """Return the answers on all batches, and the seconds they took."""
    names = Answers.model_fields
    columns = {n: tuple(v for part in parts for v in getattr(part.answers, n)) for n in names}
    return Answers(**columns), sum(part.seconds for part in parts)
