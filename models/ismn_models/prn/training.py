"""PRN's schedule: the rectifier on universal perturbations of the frozen base classifier, then the detector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.pipeline import Pipeline
from ismn_models.prn.config import PrnConfig
from ismn_models.prn.system import Prn
from ismn_models.prn.universal import perturb, perturbations
from ismn_models.training import Stage, descend

BATCH = 250
"""Batch size where nothing is trained."""
MEASURED = 1000
"""Validation images that the closing figures are taken on."""
DECAY_STEPS = 1000
CLIP = 1.0
"""Largest norm of a step's gradient."""


def stages(pipeline: Pipeline, config: PrnConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    if not isinstance(pipeline.defence, Prn):
        raise TypeError(f"not a PRN pipeline: {type(pipeline.defence).__name__}")
    return [
        RectifierStage(pipeline.base, pipeline.defence, config),
        DetectorStage(pipeline, pipeline.defence, config),
    ]


class RectifierStage(Stage):
    """Adam on the base's cross-entropy of rectified images, against its own answer to the clean ones."""

    name = "rectifier"
    shareable = True

    def __init__(self, base: nn.Module, defence: Prn, config: PrnConfig) -> None:
        self.base, self.defence, self.config = base, defence, config
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.optimisers = (torch.optim.Adam(defence.rectifier.parameters(), config.lr),)
        self.deltas = torch.empty(0)
        self.steps = 0

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`. The perturbations are computed once: the base does not change."""
        self.base.requires_grad_(False).eval()
        self.defence.train()
        if epoch == 0:
            self.deltas = perturbations(self.base, train, self.config)
        self.deltas = self.deltas.to(train.pixels.device)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`. Labels are not asked for: the base's clean answer is to be kept, right or wrong."""
        x = self.augment(x)
        with torch.no_grad():
            wanted = self.base(x).argmax(1)
        rectified = self.defence.reform(perturb(x, self.deltas, self.config.perturbed_share))
        logits = self.base(rectified).float()
        loss = nn.functional.cross_entropy(logits, wanted)
        descend(self.optimisers[0], loss, self._lr(), CLIP)
        self.steps += 1
        return {"loss": loss.item(), "answers kept": (logits.argmax(1) == wanted).float().mean().item()}

    def _lr(self) -> float:
        factor: float = self.config.lr_decay ** (self.steps / DECAY_STEPS)
        return self.config.lr * factor

    def state(self) -> dict[str, Any]:
        """See `Stage.state`; the perturbations and the step count are part of it."""
        return super().state() | {"perturbations": self.deltas, "steps": self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Stage.load_state`."""
        super().load_state(state)
        self.deltas, self.steps = state["perturbations"], state["steps"]


class DetectorStage(Stage):
    """The detector on perturbations that the rectifier has not been trained on: an attacker's will be new too."""

    name = "detector"

    def __init__(self, pipeline: Pipeline, defence: Prn, config: PrnConfig) -> None:
        self.pipeline, self.defence, self.config = pipeline, defence, config

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Fit detector and threshold. Returns the detector's cross-validated accuracy, and what `measure` does."""
        base = self.pipeline.base.requires_grad_(False)
        deltas = perturbations(base, train, self.config)
        chosen = torch.randperm(len(train))[: self.config.detector_images].to(train.labels.device)
        accuracy = self.defence.detector.fit(*self._features(train.take(chosen), deltas))
        self.defence.calibrate((x for x, _ in self.watched(validation, BATCH)), base)
        return {"detector accuracy": accuracy} | self.measure(validation.take(slice(MEASURED)), deltas)

    def _features(self, images: Images, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw features of each image and of its perturbed copy, and which are of the latter."""
        features, perturbed = [], []
        for clean, _ in self.watched(images, BATCH):
            for x, attacked in ((clean, False), (perturb(clean, deltas), True)):
                with torch.no_grad():
                    features.append(self.defence.detector.raw_features(x, self.defence.reform(x)))
                perturbed.append(torch.full((len(x),), attacked, device=x.device))
        return torch.cat(features), torch.cat(perturbed)

    def measure(self, validation: Images, deltas: Tensor) -> dict[str, float]:
        """Return accuracies on clean and perturbed images, with the base's alone, and the share flagged."""
        sums: dict[str, float] = {}
        for clean, y in self.watched(validation, BATCH):
            for kind, x in (("clean", clean), ("perturbed", perturb(clean, deltas))):
                with torch.no_grad():
                    decision = self.pipeline.decide(x)
                    bare = self.pipeline.base(x).argmax(1) == y
                right = decision.logits.argmax(1) == y
                for name, hits in (("accuracy", right), ("base accuracy", bare), ("flagged", decision.flagged)):
                    sums[f"{name}, {kind}"] = sums.get(f"{name}, {kind}", 0.0) + float(hits.sum())
        return {f"validation {name}": total / len(validation) for name, total in sums.items()}
