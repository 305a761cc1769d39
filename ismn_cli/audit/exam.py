"""One model under examination: its images, its answers, its gradients, each worked out once for all checks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ismn_cli.attacks.objectives import margin
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Finding, Verdict
from ismn_cli.engine.rng import isolated

BATCH = 100
"""Images sent through the model at once."""
GRADIENTS = 100
"""Images whose gradients are looked at."""
RUNS, ASKED = 5, 100
"""Passes over the same images, as AutoAttack's check makes them, and how many images."""
MOVED = 1e-4
"""Distance between normalised logits that calls a model randomised."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits [N, K], labels [N]) -> [N], higher is worse for the model."""


def batches(x: Tensor) -> list[Tensor]:
    """Return x [N, ...] in parts that go through a model at once."""
    return [x[start : start + BATCH] for start in range(0, len(x), BATCH)]


def answered(logits: Tensor) -> Tensor:
    """Return the answered class of logits [N, K]; -1, which is never right, where they are not finite."""
    return logits.nan_to_num().argmax(1).masked_fill(~logits.isfinite().all(1), -1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy per sample, [N]."""
    return F.cross_entropy(logits, labels, reduction="none")


class TwoLogits(nn.Module):
    """A model of two classes with one output, as [0, z]; as [1 - z, z] where its output is a probability."""

    def __init__(self, model: nn.Module, probability: bool) -> None:
        super().__init__()
        self.model, self.probability = model, probability
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Return two columns for x [N, C, H, W]."""
        z: Tensor = self.model(x).reshape(len(x), 1)
        return torch.cat([1 - z if self.probability else torch.zeros_like(z), z], 1)


@dataclass(frozen=True)
class Slopes:
    """Gradients on some images, each as the sum of its absolute values over the pixels, [n]."""

    index: Tensor
    """Which images: positions in the exam."""
    cross_entropy: Tensor
    margin: Tensor
    logits: Tensor
    """Of a random combination of the logits: whether any path leads from them to the pixels."""


@dataclass(frozen=True)
class Exam:
    """A model that gives logits [N, K] for x [N, C, H, W] in [0, 1] with labels y [N], in evaluation mode."""

    model: nn.Module
    x: Tensor
    y: Tensor
    subject: str
    shape: tuple[int, ...]
    """Of the model's own answer to all images."""
    answers: Tensor
    """[N, K]; [N, 0] where the model's answers cannot be read as logits."""
    num_classes: int
    seed: int = 0
    expected: float | None = None
    """Clean accuracy that the user believes in, a share."""

    @cached_property
    def finite(self) -> Tensor:
        """Return bool [N]: all logits are finite numbers."""
        return self.answers.isfinite().all(1)

    @cached_property
    def predicted(self) -> Tensor:
        """Return the answered class [N]; -1, which is never right, where the logits are not finite."""
        return answered(self.answers)

    @cached_property
    def right(self) -> Tensor:
        """Return bool [N]: the answer is the label."""
        right: Tensor = self.predicted == self.y
        return right

    @cached_property
    def unreadable(self) -> str:
        """Return why nothing can be said of this model's answers; empty where they can be read."""
        if not self.answers.shape[1]:
            return f"the model's answer to {len(self.x)} images has the shape {list(self.shape)} (see MD04)"
        return "" if self.finite.any() else "no image has finite logits (see MD06)"

    @cached_property
    def constant(self) -> bool:
        """Return whether all images get the same logits, but for rounding."""
        answers = self.answers[self.finite]
        spread = (answers.amax(0) - answers.amin(0)).amax()
        return len(answers) > 1 and bool(spread <= 1e-5 * answers.abs().amax())

    @cached_property
    def scale(self) -> float:
        """Return how far logits usually stand from each other: what a change of them is compared with."""
        return float(self.answers[self.finite].std(1).mean().clamp_min(1e-12))

    @cached_property
    def passes(self) -> Tensor:
        """Return the logits of several passes over the first images, [RUNS, n, K], each with draws of its own."""
        x = self.x[:ASKED]
        with isolated(self.seed), torch.no_grad():
            passes = [torch.cat([self.model(part) for part in batches(x)]) for _ in range(RUNS)]
        return torch.stack(passes)

    @cached_property
    def moved(self) -> Tensor:
        """Return how far the normalised logits of each image lie apart at most between passes, [n]; see `passes`."""
        length = self.passes.norm(dim=2, keepdim=True)
        if length.isfinite().any() and self.passes.shape[2] == 2:
            # By its own length [0, z] would be all sign: two logits are measured by the usual length.
            length = length[length.isfinite()].mean()
        unit = self.passes / (length + 1e-10)
        apart: Tensor = (unit[:, None] - unit).norm(dim=3)
        return apart.nan_to_num().amax((0, 1))

    @property
    def draws(self) -> bool:
        """Whether the same image gets other logits each time."""
        return bool((self.moved > MOVED).any())

    def some(self, count: int) -> Tensor:
        """Return positions of at most ``count`` images answered right; of any, where none is right."""
        usable = self.finite & self.right if bool((self.finite & self.right).any()) else self.finite
        return usable.nonzero().squeeze(1)[:count]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, K] without gradients. What is drawn at random is drawn alike for x of one shape."""
        with torch.no_grad():
            return torch.cat([self._fixed(part) for part in batches(x)])

    def _fixed(self, x: Tensor) -> Tensor:
        with isolated(self.seed):
            logits: Tensor = self.model(x)
            return logits

    def gradients(self, x: Tensor, labels: Tensor, losses: Sequence[Loss]) -> list[Tensor]:
        """Return the gradient of each loss for x [n, C, H, W]; zero where no path leads to the pixels."""
        parts = zip(batches(x), batches(labels), strict=True)
        found = [self._gradients(part, own, losses) for part, own in parts]
        return [torch.cat(each) for each in zip(*found, strict=True)]

    def _gradients(self, x: Tensor, labels: Tensor, losses: Sequence[Loss]) -> list[Tensor]:
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            logits = self._fixed(x)
            if not logits.requires_grad:
                return [torch.zeros_like(x) for _ in losses]
            return [self._gradient(loss(logits, labels), x) for loss in losses]

    @staticmethod
    def _gradient(loss: Tensor, x: Tensor) -> Tensor:
        try:
            (found,) = torch.autograd.grad(loss.sum(), x, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            found = None  # an operation without derivative: the path is interrupted
        return torch.zeros_like(x) if found is None else found.detach()

    @cached_property
    def slopes(self) -> Slopes:
        """Return the gradients of the answered class's losses on the first images with finite logits."""
        index = self.finite.nonzero().squeeze(1)[:GRADIENTS]
        with isolated(self.seed):
            mixture = torch.randn(self.answers.shape[1]).to(self.x.device)
        losses = (cross_entropy, margin, lambda logits, _: logits @ mixture.to(logits))
        found = self.gradients(self.x[index], self.predicted[index], losses)
        return Slopes(index, *(gradient.flatten(1).abs().sum(1) for gradient in found))

    @cached_property
    def double(self) -> Exam | None:
        """Return the same exam in double precision; None for a model that cannot be copied or converted."""
        try:
            model = copy.deepcopy(self.model).double()
            x = self.x.double()
            with torch.no_grad():
                precise = model(x[:1]).dtype is torch.float64
        except Exception:  # whatever a stranger's module raises where it is copied or converted
            return None
        return replace(self, model=model, x=x) if precise else None

    def finding(self, code: str, verdict: Verdict, says: str, **evidence: Any) -> Finding:
        """Return what a check says of the model."""
        return Finding(code=code, verdict=verdict, subject=self.subject, says=says, evidence=evidence)

    def not_run(self, code: str, reason: str) -> Finding:
        """Return that a check could not be made, and why."""
        return self.finding(code, Verdict.NOT_RUN, f"{reason[0].upper()}{reason[1:]}.")


def open_exam(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    subject: str,
    num_classes: int | None = None,
    seed: int = 0,
    expected: float | None = None,
) -> Exam:
    """Ask ``model``, in evaluation mode, for its answers. Without ``num_classes`` it has as many as it answers with.

    Raises UsageError for a model that does not take the images, or whose answer is not a tensor.
    """
    raw = _ask(model, x)
    shape = tuple(raw.shape)
    one = raw.shape in ((len(x),), (len(x), 1)) and num_classes in (None, 2)
    if one:
        model = TwoLogits(model, bool(((raw >= 0) & (raw <= 1)).all()))
        raw = _ask(model, x)
    readable = raw.ndim == 2 and len(raw) == len(x) and raw.shape[1] > 1 and raw.is_floating_point()
    answers = raw if readable else x.new_zeros(len(x), 0)
    return Exam(model, x, y, subject, shape, answers, num_classes or raw.shape[-1], seed, expected)


def _ask(model: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            answers = [model(part) for part in batches(x)]
        strange = next((answer for answer in answers if not isinstance(answer, Tensor)), None)
        if strange is None:
            return torch.cat([answer if answer.ndim else answer[None] for answer in answers])
    except UsageError:
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"The model does not take {len(x[:BATCH])} float32 images {list(x.shape[1:])}: "
            f"{type(error).__name__}: {first}",
            "It is called on images [N, C, H, W] in [0, 1], in evaluation mode, without gradients. Is it of this "
            "data set's image size and channels, and in float32?",
        ) from error
    raise UsageError(
        f"The model returns a {type(strange).__name__}, not a tensor of logits.",
        "Wrap it in a module whose forward returns the logits [N, K] alone.",
    )
