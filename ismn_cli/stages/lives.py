"""Lives of single samples: stored examples taken through their system again, with every picture on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ismn_cli.core.errors import UsageError
from ismn_cli.core.lives import ADVERSARIAL, CLEAN, Life, Step
from ismn_cli.core.records import Answers, CellResult
from ismn_cli.core.store import Store
from ismn_cli.stages.resolve import Resolved

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ismn_cli.core.lives import Picture
    from ismn_cli.data.image_set import ImageSet
    from ismn_models.pipeline import Decision, Pipeline

    Told = tuple[Life, tuple[Picture, ...]]
    """A life and its pictures, float32 [C, H, W] in [0, 1]: one for each step."""


@dataclass(frozen=True)
class Scene:
    """An attacked cell, its system, and the images that it was measured on."""

    result: CellResult
    system: Resolved
    images: ImageSet
    store: Store
    device: torch.device

    def lives(self, positions: Sequence[int]) -> list[Told]:
        """Return the lives of the samples at ``positions``, in ascending order.

        Raises UsageError where their examples are no longer in the store.
        """
        size = self.result.cell.batch_size
        batches = groupby(sorted(positions), lambda position: position // size)
        return [told for index, own in batches for told in self._batch(index, list(own))]

    def _batch(self, index: int, positions: list[int]) -> Iterator[Told]:
        """Yield the lives of samples of batch ``index``, each in the group in which the judge saw it."""
        from ismn_cli.engine.groups import filled, groups

        start = index * self.result.cell.batch_size
        clean, adversarial = self._pair(index)
        for group in groups(clean):
            rows = {row: place for place, row in enumerate(group.tolist())}
            own = [position for position in positions if position - start in rows]
            if not own:
                continue
            take = _Take(self.system.pipeline, filled(clean[group]), filled(adversarial[group]), self._seed())
            for position in own:
                row = rows[position - start]
                yield self._life(position, take, row), take.pictures(row)

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the clean and the adversarial images of a batch, [n, C, H, W]."""
        import torch

        size = self.result.cell.batch_size
        part = slice(index * size, (index + 1) * size)
        clean = self.images.floats(part)
        found = self.store.examples(self.result.cell.examples_key()).read(index)
        arrays = found[0] if found else {}
        stored = arrays.get("adversarial")
        if stored is None or stored.shape != tuple(clean.shape) or arrays["ids"].tolist() != self._ids(part):
            raise UsageError(
                "The adversarial examples of this cell are no longer in the store.", "Repeat the run to have them back."
            )
        return self._moved(clean), self._moved(torch.from_numpy(stored))

    def _ids(self, part: slice) -> list[int]:
        return list(self.result.ids[part])

    def _moved(self, images: Tensor) -> Tensor:
        import torch

        return images.to(self.device, memory_format=torch.channels_last)

    def _seed(self) -> int:
        """Return the seed of the first judgement, see `ismn_cli.stages.cells.Bench`."""
        from ismn_cli.engine.rng import derive

        return derive(self.result.cell.seed, "judge", 0)

    def _life(self, position: int, take: _Take, row: int) -> Life:
        result = self.result
        if result.attacked is None:
            raise ValueError("a clean cell has no adversarial images")
        return Life(
            cell=result.cell.key(),
            position=position,
            id=result.ids[position],
            label=result.labels[position],
            outcome=result.outcomes()[position],
            predicted=result.attacked.predicted[position],
            rejected=result.attacked.rejected[position],
            threshold=take.threshold(row),
            linf=result.linf[position],
            l2=result.l2[position],
            steps=take.steps(row),
            note=take.disagreement(row, result.attacked, position),
        )


class _Take:
    """A batch on its way through a system: in float32, in eval mode, drawing from ``seed`` as the judge did."""

    def __init__(self, pipeline: Pipeline, clean: Tensor, adversarial: Tensor, seed: int) -> None:
        import torch

        from ismn_cli.engine.modes import evaluating
        from ismn_cli.engine.rng import isolated

        self.pipeline = pipeline
        self.images = [(CLEAN, clean), (ADVERSARIAL, adversarial)]
        with evaluating(pipeline), torch.no_grad(), torch.autocast(clean.device.type, enabled=False):
            self.decided: list[Decision] = []
            for _, x in self.images:
                with isolated(seed):
                    self.decided.append(pipeline.decide(x))
            with isolated(seed):
                self.way = pipeline.defence.trace(adversarial, pipeline.classifier)
            seen = [*(x for _, x in self.images), *(point.images for point in self.way)]
            self.logits = [pipeline.classifier(x) for x in seen]

    def steps(self, row: int) -> tuple[Step, ...]:
        """Return the steps of the sample in this row."""
        looked = self.pipeline.defence.policy in ("reject", "route")
        names = [name for name, _ in self.images] + [point.name for point in self.way]
        scores = [decision.score if looked else None for decision in self.decided]
        scores += [point.score for point in self.way]
        return tuple(
            Step(
                name=names[i],
                logits=tuple(self.logits[i][row].tolist()),
                score=None if (score := scores[i]) is None else float(score[row]),
            )
            for i in self._taken(row)
        )

    def pictures(self, row: int) -> tuple[Picture, ...]:
        """Return the pictures of its steps."""
        seen = [*(x for _, x in self.images), *(point.images for point in self.way)]
        return tuple(seen[i][row].nan_to_num(0.0).clamp(0, 1).cpu().numpy() for i in self._taken(row))

    def threshold(self, row: int) -> float | None:
        """Return the detector's threshold; None without a detector, and where a flag does not go by it."""
        decision, threshold = self.decided[1], self.pipeline.defence.threshold
        if self.pipeline.defence.policy not in ("reject", "route"):
            return None
        by_it = bool(decision.flagged[row]) == bool(decision.score[row] >= threshold)
        return float(threshold) if by_it else None

    def disagreement(self, row: int, stored: Answers, position: int) -> str:
        """Return what the system answered this time where that is not what is stored."""
        decision = self.decided[1]
        now = _class_of(decision.logits[row]), bool(decision.rejected[row])
        if now == (stored.predicted[position], stored.rejected[position]):
            return ""
        refused = ", refused" if now[1] else ""
        return f"asked again, the system answers class {now[0]}{refused}: the stored outcome is not repeated"

    def _taken(self, row: int) -> list[int]:
        return [0, 1, *(i for i, point in enumerate(self.way, 2) if point.taken[row])]


def _class_of(logits: Tensor) -> int:
    return Step(name="", logits=tuple(logits.tolist())).predicted
