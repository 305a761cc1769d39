"""One task at a time: examples crafted or taken from the store batch by batch, then judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ismn_cli.core.notes import merged
from ismn_cli.core.parts import Span
from ismn_cli.core.records import Answers, CellResult, Outcome
from ismn_cli.core.specs import Cell
from ismn_cli.stages.jobs import Job, tally
from ismn_cli.stages.tasks import Earlier, Task
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

class ExampleBatches(Protocol):
    """Where the examples of one attack are kept, batch by batch; see `ismn_cli.core.examples.Examples`."""

    def read(self, index: int) -> Batch | None:
        """Return a batch and what was noted beside it; None where there is none that can be trusted."""

    def put_batch(self, index: int, arrays: Arrays, metadata: Mapping[str, str]) -> None:
        """Keep a batch."""


FindExamples = Callable[[str], ExampleBatches]
"""Takes the key of an attack's examples; see `Cell.examples_key`."""


class Attacker(NamedTuple):
    """An attack, and what it may build on, by name."""

    attack: Attack
    views: Mapping[str, nn.Module]


@dataclass(frozen=True)
class Held:
    """What is known of a batch before an attack that leaves alone what is broken already."""

    clean: CellResult
    previous: CellResult | None

    def wrong(self) -> list[bool]:
        """Per sample, whether it is answered wrong without any attack. One refused may be worth an attack."""
        clean = self.clean.clean
        columns = zip(clean.predicted, clean.rejected, self.clean.labels, strict=True)
        return [predicted != label and not refused for predicted, refused, label in columns]

    def broken(self) -> list[bool]:
        """Per sample, whether an attack before has broken it."""
        outcomes = self.previous.outcomes() if self.previous else (None,) * len(self.clean.ids)
        return [outcome is Outcome.BROKEN for outcome in outcomes]


class Bench:
    """Images on their way through attacks and systems. Pixels are in [0, 1]."""

    def __init__(
        self, examples: FindExamples, images: ImageSet, device: torch.device, batch_size: int, seed: int
    ) -> None:
        self.examples, self.images, self.device = examples, images, device
        self.batch_size, self.seed = batch_size, seed

    def carry_out(self, task: Task, span: Span, earlier: Earlier) -> Iterator[tuple[int, list[CellResult]]]:
        """Yield each batch of ``span`` by its number, with the result on it of each cell of ``task``.

        ``earlier`` knows the results that the task needs.
        """
        if task.job is None:
            ((system, cell),) = task.cells
            results = self.clean(cell, system.pipeline, span)
            yield from zip(span.indices(), ([result] for result in results), strict=True)
        else:
            yield from zip(span.indices(), self.attack(task, task.job, span, earlier), strict=True)

    def clean(self, cell: Cell, pipeline: Pipeline, span: Span) -> Iterator[CellResult]:
        """Judge the images as they are; yield the result on each batch."""
        for index in span.indices():
            x, _ = self._batch(index)
            drawn, seconds = self._judge(cell, pipeline, x)
            yield CellResult(
                cell=cell,
                **self._names(index),
                clean=drawn[0],
                draws_clean=tally(drawn, self._names(index)["labels"]),
                judge_seconds=seconds,
            )

    def attack(self, task: Task, job: Job, span: Span, earlier: Earlier) -> Iterator[list[CellResult]]:
        """Attack the images, and judge every system of ``job`` on the results; yield those on each batch."""
        attacker, examples = self._attack(job), self.examples(job.cells[0][1].examples_key())
        before = job.previous.key() if job.previous else None
        for index in span.indices():
            clean = [earlier(key, index) for key in task.clean]
            previous = earlier(before, index) if before else None
            held = Held(clean[0], previous) if job.survivors else None
            adversarial, batch = self._crafted(job, attacker, examples, index, held)
            yield [
                self._result(cell, system.pipeline, before, adversarial, batch, job.notes())
                for (system, cell), before in zip(task.cells, clean, strict=True)
            ]
            del adversarial  # before the next batch takes as much

    def _batch(self, index: int) -> tuple[Tensor, Tensor]:
        import torch

        rows = self._rows(index)
        x, y = self.images.floats(rows), self.images.labels[rows]
        return x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def _crafted(
        self, job: Job, attacker: Attacker, examples: ExampleBatches, index: int, held: Held | None
    ) -> tuple[Tensor, Arrays]:
        """Return the adversarial images of a batch and the columns beside them; crafted only if missing."""
        import torch

        x, y = self._batch(index)
        found = self._stored(examples, index, x)
        if found is None:
            found = self._craft(job, attacker, x, y, index, held)
            examples.put_batch(index, *found)
        arrays, texts = found
        pixels = torch.from_numpy(arrays["adversarial"]).to(x.device, memory_format=torch.channels_last)
        columns = {name: arrays[name].tolist() for name in ("failed", "linf", "l2", "cost", "seconds", "carried")}
        return pixels, columns | {name: json.loads(text) for name, text in texts.items()}

    def _attack(self, job: Job) -> Attacker:
        from ismn_cli.attacks.adapter import make_attack

        return Attacker(make_attack(job.attack, len(self.images.classes)), job.views())

    def _stored(self, examples: ExampleBatches, index: int, x: Tensor) -> Batch | None:
        """Return a stored batch, unless it is of other samples than these."""
        found = examples.read(index)
        if found is None or found[0]["ids"].tolist() != self._ids(index):
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

    def unattacked(self, index: int, held: Held) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """Return the columns of a batch on which the attack failed, but for what is carried over."""
        standing, arrays, texts = self._carried(held, index, self._batch(index)[0])
        arrays["failed"][standing.tolist()] = True
        return arrays, texts

    def _carried(
        self, held: Held | None, index: int, x: Tensor
    ) -> tuple[Tensor, dict[str, Any], dict[str, list[str]]]:
        """Return the positions still to be attacked, and the columns of a batch with the others filled in."""
        import numpy as np
        import torch

        n = len(x)
        arrays = {
            "ids": np.array(self._ids(index)),
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
            arrays["carried"] |= held.wrong()
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
        found = self._stored(self.examples(held.previous.cell.examples_key()), index, x)
        if found is None:
            return
        broken = np.array(held.broken())
        for name in ("adversarial", "linf", "l2"):
            arrays[name][broken] = found[0][name][broken]
        arrays["carried"] |= broken
        via = json.loads(found[1]["via"])
        for position in broken.nonzero()[0].tolist():
            texts["via"][position] = via[position]

    def _judge(self, cell: Cell, pipeline: Pipeline, x: Tensor) -> tuple[list[Answers], float]:
        """Return the answers of each draw, one where the system does not draw at random, and the first's seconds."""
        from ismn_cli.engine.judge import judge
        from ismn_cli.engine.rng import derive

        seeds = [derive(self.seed, "judge", draw) for draw in range(cell.draws)]
        judged = asked(cell.defence.name, lambda: [judge(pipeline, [x], seed=seed) for seed in seeds])
        return [answers for answers, _ in judged], judged[0][1]

    def _result(
        self,
        cell: Cell,
        pipeline: Pipeline,
        clean: CellResult,
        adversarial: Tensor,
        batch: Arrays,
        notes: Sequence[str],
    ) -> CellResult:
        drawn, seconds = self._judge(cell, pipeline, adversarial)
        forwards, backwards, queries = batch["cost"]
        return CellResult(
            cell=cell,
            ids=clean.ids,
            labels=clean.labels,
            clean=clean.clean,
            attacked=drawn[0],
            failed=tuple(batch["failed"]),
            linf=tuple(batch["linf"]),
            l2=tuple(batch["l2"]),
            forwards=forwards,
            backwards=backwards,
            queries=queries,
            carried=sum(batch["carried"]),
            via=tuple(batch["via"]),
            draws_clean=clean.draws_clean,
            draws_attacked=tally(drawn, clean.labels),
            craft_seconds=sum(batch["seconds"]),
            judge_seconds=seconds,
            notes=merged((*notes, *batch["notes"])),
        )

    def _rows(self, index: int) -> slice:
        return slice(index * self.batch_size, (index + 1) * self.batch_size)

    def _ids(self, index: int) -> list[int]:
        ids: list[int] = self.images.ids[self._rows(index)].tolist()
        return ids

    def _names(self, index: int) -> dict[str, Any]:
        """Return which samples a batch holds, and their labels."""
        return {"ids": tuple(self._ids(index)), "labels": tuple(self.images.labels[self._rows(index)].tolist())}


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

