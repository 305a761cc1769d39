"""One cell at a time: examples crafted or taken from the store batch by batch, then judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ismn_cli.core.examples import Examples
from ismn_cli.core.notes import merged
from ismn_cli.core.records import Answers, CellResult, Outcome
from ismn_cli.core.specs import Cell
from ismn_cli.core.store import Store
from ismn_cli.stages.jobs import Job, tally
from ismn_cli.stages.user_defences import asked

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ismn_cli.data.image_set import ImageSet
    from ismn_cli.engine.craft import Attack
    from ismn_cli.threats.worst_case import WorstCase
    from ismn_models.pipeline import Pipeline

    Arrays = Mapping[str, Any]
    Batch = tuple[dict[str, Any], dict[str, str]]

OnBatch = Callable[[int, Sequence[str]], None]
"""(images of the batch, what became of each)."""


class Attacker(NamedTuple):
    """An attack, and what it may build on, by name."""

    attack: Attack
    views: Mapping[str, nn.Module]


class Part(NamedTuple):
    """One batch of one cell: the answers of each draw, one where the system does not draw at random."""

    drawn: tuple[Answers, ...]
    seconds: float


@dataclass(frozen=True)
class Held:
    """What is known of a system before an attack that leaves alone what is broken already."""

    clean: CellResult
    previous: CellResult | None

    @cached_property
    def wrong(self) -> list[bool]:
        """Per sample, whether it is answered wrong without any attack. One refused may be worth an attack."""
        clean = self.clean.clean
        columns = zip(clean.predicted, clean.rejected, self.clean.labels, strict=True)
        return [predicted != label and not refused for predicted, refused, label in columns]

    @cached_property
    def broken(self) -> list[bool]:
        """Per sample, whether an attack before has broken it."""
        outcomes = self.previous.outcomes() if self.previous else (None,) * len(self.clean.ids)
        return [outcome is Outcome.BROKEN for outcome in outcomes]


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
            parts.append(self._judge(cell, pipeline, x))
            on_batch(len(x), self._right_or_wrong(index, parts[-1].drawn[0]))
        drawn, seconds = _joined(parts)
        result = CellResult(
            cell=cell,
            ids=self.ids,
            labels=self.labels,
            clean=drawn[0],
            draws_clean=tally(drawn, self.labels),
            judge_seconds=seconds,
        )
        self.store.put_cell(result)
        return result

    def attack(
        self, job: Job, clean: Mapping[str, CellResult], previous: CellResult | None, on_batch: OnBatch
    ) -> list[CellResult]:
        """Attack the images, judge every system of ``job`` on the results, and store the cells.

        ``clean`` holds each system's cell without attack, by its name; what ``previous`` has broken is carried over.
        """
        examples = self.store.examples(job.cells[0][1].examples_key())
        held = Held(clean[job.cells[0][0].subject.name], previous) if job.survivors else None
        parts: list[list[Part]] = [[] for _ in job.cells]
        crafted = []
        for index, (x, adversarial, batch) in enumerate(self._crafted(job, examples, held)):
            crafted.append(batch)
            for (system, cell), column in zip(job.cells, parts, strict=True):
                column.append(self._judge(cell, system.pipeline, adversarial))
            on_batch(len(x), self._outcomes(job, clean, index, parts[-1][-1].drawn[0], batch))
        results = [
            self._result(cell, clean[system.subject.name], column, crafted, job.notes())
            for (system, cell), column in zip(job.cells, parts, strict=True)
        ]
        for result in results:
            self.store.put_cell(result)
        return results

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        for x, y in self.images.batches(self.batch_size):
            yield x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def _crafted(
        self, job: Job, examples: Examples, held: Held | None
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Yield (images, adversarial images, columns without pixels) a batch; crafted only if missing."""
        import torch

        attacker = self._attack(job)
        for index, (x, y) in enumerate(self._batches()):
            found = self._stored(examples, index, x)
            if found is None:
                found = self._craft(job, attacker, x, y, index, held)
                examples.put_batch(index, *found)
            arrays, texts = found
            pixels = torch.from_numpy(arrays["adversarial"]).to(x.device, memory_format=torch.channels_last)
            columns = {name: arrays[name].tolist() for name in ("failed", "linf", "l2", "cost", "seconds", "carried")}
            yield x, pixels, columns | {name: json.loads(text) for name, text in texts.items()}

    def _attack(self, job: Job) -> Attacker:
        from ismn_cli.attacks.adapter import make_attack

        return Attacker(make_attack(job.attack, len(self.images.classes)), job.views())

    def _stored(self, examples: Examples, index: int, x: Tensor) -> Batch | None:
        """Return a stored batch, unless it is of other samples than these."""
        found = examples.read(index)
        if found is None or found[0]["ids"].tolist() != list(self._of(index, self.ids)):
            return None
        return found if found[0]["adversarial"].shape == tuple(x.shape) else None

    def _craft(
        self, job: Job, attacker: Attacker, x: Tensor, y: Tensor, index: int, held: Held | None
    ) -> Batch:
        from ismn_cli.engine.rng import derive
        from ismn_cli.threats.worst_case import craft_through

        seed = derive(self.seed, job.attack.key())
        verdict = job.verdict(derive(self.seed, "verdict"))
        standing, arrays, texts = self._carried(held, index, x)
        if len(standing):
            images, labels = x[standing], y[standing]
            worst = craft_through(
                attacker.views, attacker.attack, images, labels, job.attack.threat, seed, verdict
            )
            _fill(arrays, texts, standing.tolist(), worst)
        return arrays, {name: json.dumps(text) for name, text in texts.items()}

    def _carried(
        self, held: Held | None, index: int, x: Tensor
    ) -> tuple[Tensor, dict[str, Any], dict[str, list[str]]]:
        """Return the positions still to be attacked, and the columns of a batch with the others filled in."""
        import numpy as np
        import torch

        n = len(x)
        arrays = {
            "ids": np.array(self._of(index, self.ids)),
            "adversarial": np.array(x.cpu().numpy(), order="C"),
            "failed": np.zeros(n, bool),
            "linf": np.zeros(n, np.float32),
            "l2": np.zeros(n, np.float32),
            "cost": np.zeros(3, np.int64),
            "seconds": np.zeros(1),
            "carried": np.zeros(n, bool),
        }
        texts: dict[str, list[str]] = {"notes": [], "via": [""] * n}
        if held is not None:
            arrays["carried"] |= self._of(index, held.wrong)
            self._take_over(held, index, x, arrays, texts)
        standing = torch.from_numpy(~arrays["carried"]).nonzero()[:, 0].to(x.device)
        return standing, arrays, texts

    def _take_over(
        self, held: Held, index: int, x: Tensor, arrays: dict[str, Any], texts: dict[str, list[str]]
    ) -> None:
        """Fill in the examples that broke a sample before."""
        import numpy as np

        if held.previous is None:
            return
        found = self._stored(self.store.examples(held.previous.cell.examples_key()), index, x)
        if found is None:
            return
        broken = np.array(self._of(index, held.broken))
        for name in ("adversarial", "linf", "l2"):
            arrays[name][broken] = found[0][name][broken]
        arrays["carried"] |= broken
        via = json.loads(found[1]["via"])
        for position in broken.nonzero()[0].tolist():
            texts["via"][position] = via[position]

    def _judge(self, cell: Cell, pipeline: Pipeline, x: Tensor) -> Part:
        from ismn_cli.engine.judge import judge
        from ismn_cli.engine.rng import derive

        seeds = [derive(self.seed, "judge", draw) for draw in range(cell.draws)]
        judged = asked(cell.defence.name, lambda: [judge(pipeline, [x], seed=seed) for seed in seeds])
        return Part(tuple(answers for answers, _ in judged), judged[0][1])

    def _result(
        self,
        cell: Cell,
        clean: CellResult,
        parts: Sequence[Part],
        crafted: Sequence[Arrays],
        notes: Sequence[str],
    ) -> CellResult:
        drawn, seconds = _joined(parts)
        forwards, backwards, queries = (sum(batch["cost"][i] for batch in crafted) for i in range(3))
        return CellResult(
            cell=cell,
            ids=self.ids,
            labels=self.labels,
            clean=clean.clean,
            attacked=drawn[0],
            failed=_column(crafted, "failed"),
            linf=_column(crafted, "linf"),
            l2=_column(crafted, "l2"),
            forwards=forwards,
            backwards=backwards,
            queries=queries,
            carried=sum(_column(crafted, "carried")),
            via=_column(crafted, "via"),
            draws_clean=clean.draws_clean,
            draws_attacked=tally(drawn, self.labels),
            craft_seconds=sum(_column(crafted, "seconds")),
            judge_seconds=seconds,
            notes=merged((*notes, *(note for batch in crafted for note in batch["notes"]))),
        )

    def _of(self, index: int, column: Sequence[Any]) -> Sequence[Any]:
        return column[index * self.batch_size : (index + 1) * self.batch_size]

    def _right_or_wrong(self, index: int, answers: Answers) -> list[str]:
        columns = zip(answers.predicted, answers.rejected, self._of(index, self.labels), strict=True)
        return ["right" if predicted == label and not no else "wrong" for predicted, no, label in columns]

    def _outcomes(
        self, job: Job, clean: Mapping[str, CellResult], index: int, attacked: Answers, batch: Arrays
    ) -> list[str]:
        """Return what became of the batch's samples under the last system of the job."""
        system, cell = job.cells[-1]
        before = clean[system.subject.name].clean
        part = CellResult(
            cell=cell,
            ids=tuple(self._of(index, self.ids)),
            labels=tuple(self._of(index, self.labels)),
            clean=Answers(**{name: self._of(index, column) for name, column in before}),
            attacked=attacked,
            failed=tuple(batch["failed"]),
        )
        return [str(outcome) for outcome in part.outcomes()]


def _fill(arrays: dict[str, Any], texts: dict[str, list[str]], standing: Sequence[int], worst: WorstCase) -> None:
    """Put what was crafted for the samples at ``standing`` into the columns of their batch."""
    import numpy as np

    crafted = worst.crafted
    for name in ("adversarial", "failed", "linf", "l2"):
        arrays[name][standing] = getattr(crafted, name).cpu().numpy()
    arrays["cost"] = np.array([crafted.forwards, crafted.backwards, worst.queries])
    arrays["seconds"] = np.array([crafted.seconds])
    texts["notes"] = list(crafted.notes)
    for position, view in zip(standing, worst.via, strict=True):
        texts["via"][position] = view


def _column(batches: Sequence[Arrays], name: str) -> tuple[Any, ...]:
    return tuple(value for batch in batches for value in batch[name])


def _joined(parts: Sequence[Part]) -> tuple[tuple[Answers, ...], float]:
    """Return each draw's answers on all batches, and the seconds that the first draw took."""
    names = Answers.model_fields
    drawn = []
    for answers in zip(*(part.drawn for part in parts), strict=True):
        drawn.append(Answers(**{n: tuple(v for part in answers for v in getattr(part, n)) for n in names}))
    return tuple(drawn), sum(part.seconds for part in parts)
