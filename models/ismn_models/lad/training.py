"""LAD's schedule: the generator, the boundaries with images from beyond them, and hardening on those.

    1. g: z(x) -> x is trained as a decoder of the base classifier's latents.
    2. For each two classes an SVM finds the boundary in latent space; x' = g(z(x) + eps a(z) o (+-w)) crosses it.
    3. A copy of the base learns 0.5 CE(f(x'), y) + 0.5 CE(f(x), y).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ismn_models.classifiers.hardened import Hardening
from ismn_models.classifiers.training import accuracy
from ismn_models.crafting import evaluating, pgd
from ismn_models.images import Images
from ismn_models.lad.boundary import Examples, Generated, Latents, Targets, cross, draw_targets, separable, separate
from ismn_models.lad.compat import PublicCode, Reading
from ismn_models.lad.config import LadConfig
from ismn_models.lad.nets import AttentionSvm, Generator
from ismn_models.lad.system import Lad
from ismn_models.parallel import figures, only
from ismn_models.pipeline import Pipeline
from ismn_models.training import Stage, batch_for, descend

MEASURED = 1000
"""Validation images that the closing figures are taken on."""
ROOM = 2**27
"""Most numbers in a batch of hardening, before the images that are left out have left it: 512 MiB."""
EPS, STEPS = 8 / 255, 10
"""Of the PGD that measures, each step eps/4 long."""


def stages(pipeline: Pipeline, config: LadConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    if not isinstance(pipeline.defence, Lad):
        raise TypeError(f"not a LAD pipeline: {type(pipeline.defence).__name__}")
    reading = (PublicCode if config.compat else Reading)(pipeline.base)
    generator = GeneratorStage(pipeline, pipeline.defence, reading, config)
    boundary = BoundaryStage(generator)
    return [generator, boundary, HardeningStage(pipeline, config, boundary.examples)]


class GeneratorStage(Stage):
    """Adam on the error of g(z(x)); the base classifier stands still, and images are not augmented."""

    name = "generator"
    shareable = True

    def __init__(self, pipeline: Pipeline, defence: Lad, reading: Reading, config: LadConfig) -> None:
        self.base, self.reading, self.config, self.shape = pipeline.base, reading, config, defence.shape
        size = self.shape.size
        self.epochs, self.batch_size = config.generator_epochs, config.generator_batch(size)
        parameter = next(self.base.parameters())
        probe = reading.latents(parameter.new_zeros(1, self.shape.channels, size, size))
        self.generator = Generator(probe.shape[1], size, self.shape.channels, config.width).to(probe.device)
        self.modules = (self.generator,)
        self.optimisers = (torch.optim.Adam(self.generator.parameters(), config.generator_lr),)
        self.latents = torch.empty(0)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`. The latents stay as they are, and take less room than the images themselves."""
        separable(train.labels)  # better known now than when the generator is trained
        self.base.requires_grad_(False).eval()
        self.generator.train()
        if not len(self.latents):
            # In order, whatever the epoch: in other batches they could differ in their last digits.
            self.latents = torch.cat([self.reading.latents(x) for x, _ in train.batches(batch_for(train))])

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        loss = self.error(self.generator(self.latents[index]), x)
        descend(self.optimisers[0], loss, self.config.generator_lr)
        return {"loss": loss.item()}

    def error(self, rebuilt: Tensor, x: Tensor) -> Tensor:
        """Return the mean error over pixels in [0, 1]."""
        difference = rebuilt - x
        return difference.abs().mean() if self.config.error == "l1" else difference.square().mean()

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Return the error of reconstructed validation images, and the base's accuracy on them."""
        self.generator.eval()
        self.latents = torch.empty(0)
        measured = validation.take(slice(MEASURED))
        error, right = 0.0, 0
        for x, y in self.watched(measured, self.batch_size):
            with torch.no_grad():
                rebuilt = self.generator(self.reading.latents(x))
                error += self.error(rebuilt, x).item() * len(x)
                right += int((self.base(rebuilt).argmax(1) == y).sum())
        n = max(len(measured), 1)
        return {f"validation {self.config.error} error": error / n, "accuracy, reconstructed": right / n}

    def kept(self) -> dict[str, Any]:
        """See `Stage.kept`: the generator."""
        return {"generator": self.generator.state_dict()}

    def load_kept(self, state: dict[str, Any]) -> None:
        """See `Stage.load_kept`."""
        self.generator.load_state_dict(state["generator"])


class BoundaryStage(Stage):
    """Pair by pair of classes: the SVM, and the images that cross it. No SVM is kept longer than its pair takes."""

    name = "boundary"

    def __init__(self, made: GeneratorStage) -> None:
        self.generator, self.reading, self.config = made.generator, made.reading, made.config
        self.batch = made.config.generator_batch(made.shape.size)
        self.base, self.classes = made.base, made.shape.classes
        self.examples = Examples(made.shape)

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Generate an image for each one drawn; return how well the boundaries separate and how many flipped."""
        self.base.requires_grad_(False).eval()
        self.generator.eval()
        known = self.reading.svm_images(train, validation)
        usable = separable(known.labels[torch.isin(known.labels, train.labels)])
        targets = draw_targets(train.labels, usable, self.config.images_per_class(self.classes))
        latents = Latents(self.reading, known, self.config, self.batch)
        indices, parts, accuracies = [], list[Generated](), list[float]()
        for first, second, between in targets.between():
            svm, share = separate(latents.of(first), latents.of(second), self.config)
            accuracies.append(share)
            for index, made in self.crossed(svm, between, train):
                indices.append(index)
                parts.append(made)
                self._tell(sum(map(len, indices)), len(targets.image))
        whole = Generated(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        self.examples.index, self.examples.pixels = torch.cat(indices), whole.pixels
        return _figures(accuracies, whole)

    def crossed(self, svm: AttentionSvm, between: Targets, train: Images) -> Iterator[tuple[Tensor, Generated]]:
        """Yield positions and generated images, a batch at a time."""
        ways = (between.target > between.source).float() * 2 - 1
        for start in range(0, len(ways), self.batch):
            index, way = (t[start : start + self.batch] for t in (between.image, ways))
            yield index, cross(self.reading, self.generator, svm, train.floats(index), way, self.config)

    def _tell(self, done: int, total: int) -> None:
        if self.tell is not None:
            self.tell(done, total)

    def kept(self) -> dict[str, Any]:
        """See `Stage.kept`: the generated images."""
        return self.examples.state()

    def load_kept(self, state: dict[str, Any]) -> None:
        """See `Stage.load_kept`."""
        self.examples.load_state(state)


def _figures(accuracies: list[float], made: Generated) -> dict[str, float]:
    flipped = made.flipped.float().mean().item()
    return {
        "boundaries": float(len(accuracies)),
        "accuracy of the boundaries": sum(accuracies) / len(accuracies),
        "images": float(len(made.eps)),
        "flipped": flipped,
        "flipped without a step": made.misread.float().mean().item(),
    } | ({"mean eps of the flipped": made.eps[made.flipped].mean().item()} if flipped else {})


class HardeningStage(Hardening):
    """SGD at a constant rate on generated images and those that they were generated from, both of the true label."""

    name = "hardening"
    shareable = True

    def __init__(self, pipeline: Pipeline, config: LadConfig, examples: Examples) -> None:
        super().__init__(pipeline, config, config.epochs)
        self.examples, self.pairs = examples, config.batch_size
        self.optimisers = (
            torch.optim.SGD(
                self.net.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            ),
        )
        self.row = torch.empty(0, dtype=torch.int64)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`.

        An epoch goes through all training images. Its batches are so large that about as many images as wanted have
        something that was generated from them; the others are left out. `ROOM` limits them.
        """
        super().begin_epoch(epoch, train)
        index = self.examples.index.to(train.labels.device)
        self.examples.pixels = self.examples.pixels.to(train.pixels.device)
        self.row = torch.full_like(train.labels, -1)
        self.row[index] = torch.arange(len(index), device=index.device)
        wanted = round(self.pairs * len(train) / max(len(index), 1))
        self.batch_size = max(2, min(wanted, ROOM // train.pixels[0].numel()))

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        row = self.row[index]
        with only(row >= 0) as paired:
            if paired.total < 2:  # too few for batch normalisation
                return {}
            return figures(self._learn(*(t[paired.at] for t in (x, y, row))))

    def _learn(self, x: Tensor, y: Tensor, row: Tensor) -> dict[str, float]:
        generated = self.examples.pixels[row].float() / 255
        self.net.train()
        logits, beyond = self.net(x).float(), self.net(generated).float()
        loss = 0.5 * nn.functional.cross_entropy(beyond, y) + 0.5 * nn.functional.cross_entropy(logits, y)
        descend(self.optimisers[0], loss, self.lr)
        right = (beyond.argmax(1) == y).float().mean().item()
        return {"loss": loss.item(), "accuracy, generated": right}

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Return the accuracy on the first thousand validation images, clean and under PGD at 8/255."""
        measured = validation.take(slice(MEASURED))
        batches = self.watched(measured, batch_for(measured))
        self.net.eval()
        return {
            "validation accuracy, clean": accuracy(self.net, measured),
            f"validation accuracy, PGD-{STEPS} at 8/255": pgd_accuracy(self.net, batches),
        }


def pgd_accuracy(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images [n, C, H, W] in [0, 1] that ``net`` labels right after PGD of `STEPS` steps."""
    right, n = 0, 0
    with evaluating(net):
        for x, y in batches:
            attacked = pgd(net, x, y, EPS, STEPS, EPS / 4)
            with torch.no_grad():
                right += int((net(attacked).argmax(1) == y).sum())
            n += len(y)
    return right / max(n, 1)
