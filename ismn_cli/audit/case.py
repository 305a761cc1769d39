"""An attack, what it is asked to break, and how it went. What the checks of an attack have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.evasion import look, succeeded
from ismn_cli.attacks.params import find_attack
from ismn_cli.audit.effort import resized
from ismn_cli.audit.path import Watched
from ismn_cli.core.attack_entry import AttackEntry
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.core.specs import AttackSpec, Norm, ThreatModel
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_cli.engine.modes import evaluating
from ismn_cli.engine.rng import derive, isolated
from ismn_models.pipeline import Reading

_BATCH = 64


@dataclass(frozen=True)
class Run:
    """How an attack went on n images. All on the CPU but for the images."""

    images: Tensor
    """[n, C, H, W]: what it proposed; the clean image where it failed."""
    fooled: Tensor
    """bool [n]: what was attacked answers wrong, and its detector, if any, is silent."""
    wrong: Tensor
    """bool [n]: what was attacked answers wrong, whatever its detector says."""
    refused: Tensor
    """bool [n]: its detector does not let the image through."""
    failed: Tensor
    """bool [n]: the attack crashed, gave NaN or left the threat model."""
    distance: Tensor
    """[n]: from the clean image, in the threat's norm and in pixels."""
    notes: tuple[str, ...]
    paths: tuple[Watched, ...]
    """A path for each batch of `_BATCH` images, in order."""

    @property
    def shown(self) -> int:
        """How many points the attack showed the model."""
        return sum(path.shown for path in self.paths)

    def points(self) -> Tensor:
        """Return how many points of each image's path are known, int64 [n]."""
        counts = [torch.bincount(path.steps.who, minlength=len(path.x)) for path in self.paths]
        return torch.cat(counts) if counts else torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Case:
    """An attack and what it is asked to break: a module with logits, perhaps a `Surrogate` with a detector.

    Whether a sample is broken is asked of what was attacked, here and in all checks of an attack.
    """

    model: nn.Module
    spec: AttackSpec
    x: Tensor
    """float32 [N, C, H, W] in [0, 1]."""
    y: Tensor
    """int64 [N]."""
    num_classes: int
    subject: str
    seed: int = 0
    cells: tuple[str, ...] = ()
    """Keys of the cells whose figures a failure makes unreliable."""
    searched: nn.Module | None = None
    """What is searched in place of the model, such as the same in another precision; None: the model itself."""

    @property
    def threat(self) -> ThreatModel:
        """The perturbations allowed."""
        return self.spec.threat

    @property
    def entry(self) -> AttackEntry:
        """What the catalogue says of the attack."""
        return find_attack(self.spec.method)

    @cached_property
    def right(self) -> Tensor:
        """Which samples are answered right without attack, and pass the detector if there is one: bool [N]."""
        if not len(self.x):
            return torch.empty(0, dtype=torch.bool)
        reading = read(self.model, self.x, self.seed)
        right = reading.logits.argmax(1) == self.y
        right &= ~reading.logits.isnan().any(1)
        return (right if reading.margin is None else right & (reading.margin < 0)).cpu()

    @cached_property
    def base(self) -> Run:
        """The attack as it is, on the samples that are right."""
        return self.run()

    @cached_property
    def unbounded(self) -> Run:
        """The attack at eps 1, where every image is allowed, on the samples that are right."""
        return self.run(resized(self.spec, 1.0))

    @cached_property
    def left(self) -> Tensor:
        """Positions of the samples that the attack ran on and left right, int64 [m]."""
        return self.attacked[~(self.base.fooled | self.base.failed)]

    @cached_property
    def attacked(self) -> Tensor:
        """Positions of the samples that are right without attack, int64 [n]."""
        return self.right.nonzero()[:, 0]

    def run(self, spec: AttackSpec | None = None, who: Tensor | None = None) -> Run:
        """Attack the samples at ``who`` int64 [n]; by default those that are right without attack, as ``spec`` says.

        Raises UsageError for parameters that the attack does not know, and where memory runs out.
        """
        spec = spec or self.spec
        who = self.attacked if who is None else who
        attack = make_attack(spec, self.num_classes)
        parts = []
        for index, part in enumerate(_chunks(who)):
            x, y = self.x[part.to(self.x.device)], self.y[part.to(self.y.device)]
            watched = Watched(self.model if self.searched is None else self.searched, x, y, spec.threat)
            seed = derive(self.seed, spec.key(), index)
            crafted = craft_batch(watched, attack, x, y, spec.threat, seed, together=True)
            parts.append(_part(crafted, read(self.model, crafted.adversarial, self.seed), watched))
        return _joined(parts, self.x)

    def finding(
        self, code: str, verdict: Verdict, says: str, evidence: Mapping[str, JsonValue] | None = None
    ) -> Finding:
        """Return a finding on this case; a failure names the cells."""
        cells = self.cells if verdict is Verdict.FAIL else ()
        return Finding(
            code=code, verdict=verdict, subject=self.subject, says=says, evidence=dict(evidence or {}), cells=cells
        )

    def not_run(self, code: str, why: str) -> Finding:
        """Return that a check could not be run, and why."""
        return self.finding(code, Verdict.NOT_RUN, why)


def read(model: nn.Module, x: Tensor, seed: int) -> Reading:
    """Return what ``model`` shows of x [N, C, H, W] in evaluation mode, without gradients; draws come from ``seed``."""
    with isolated(seed), evaluating(model), torch.no_grad():
        parts = [look(model, part) for part in _chunks(x)]
    margins = [part.margin for part in parts if part.margin is not None]
    logits = torch.cat([part.logits for part in parts]).float()
    return Reading(logits, torch.cat(margins) if margins else None)


def _part(crafted: Crafted, reading: Reading, path: Watched) -> Run:
    wrong = succeeded(Reading(reading.logits), path.y) & ~crafted.failed
    fooled = succeeded(reading, path.y) & ~crafted.failed
    refused = torch.zeros_like(fooled) if reading.margin is None else reading.margin >= 0
    distance = crafted.linf if path.threat.norm is Norm.LINF else crafted.l2
    return Run(
        images=crafted.adversarial,
        fooled=fooled.cpu(),
        wrong=wrong.cpu(),
        refused=refused.cpu(),
        failed=crafted.failed.cpu(),
        distance=distance.cpu(),
        notes=crafted.notes,
        paths=(path,),
    )


def _joined(parts: list[Run], like: Tensor) -> Run:
    if not parts:
        none = torch.empty(0, dtype=torch.bool)
        return Run(like[:0], none, none, none, none, torch.empty(0), (), ())
    return Run(
        images=torch.cat([part.images for part in parts]),
        fooled=torch.cat([part.fooled for part in parts]),
        wrong=torch.cat([part.wrong for part in parts]),
        refused=torch.cat([part.refused for part in parts]),
        failed=torch.cat([part.failed for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        paths=tuple(part.paths[0] for part in parts),
    )


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(tensor), _BATCH):
        yield tensor[start : start + _BATCH]
