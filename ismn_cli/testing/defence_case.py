"""A defence made ready to be asked: before a classifier, calibrated on clean images, a copy of it as it was before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ismn_cli.engine.rng import isolated
from ismn_cli.testing.pictures import Smooth, corners, pictures
from ismn_cli.testing.verdicts import raised
from ismn_models.pipeline import Decision, Defence, Pipeline, Reading
from ismn_models.shape import Shape

ASKED, CLEAN, PART = 12, 40, 10
SEEDS = 6
"""Answers that are compared to see whether anything is drawn: a draw may leave most images alone."""

FICKLE = "It does not answer alike under the same seed (see CD11)."


@dataclass(frozen=True)
class DefenceCase:
    """A calibrated system in evaluation mode, and images for it."""

    system: Pipeline
    fresh: Pipeline | None
    """Another, as it was before calibration; None where it cannot be copied."""
    problem: str
    """What calibration raised."""
    x: Tensor
    """[N, C, H, W]: ordinary images, then extreme ones."""
    clean: Tensor
    """What it was calibrated on."""
    seed: int

    @property
    def defence(self) -> Defence:
        """The defence itself."""
        return self.system.defence

    def decided(self, x: Tensor | None = None, seed: int | None = None, system: Pipeline | None = None) -> Decision:
        """Return the decision on x, the case's own images unless given, under a seed."""
        with isolated(self.seed if seed is None else seed), torch.no_grad():
            return (system or self.system).decide((self.x if x is None else x).clone())

    @cached_property
    def drawn(self) -> Tensor:
        """Return bool [N]: the image gets other answers under other seeds."""
        found = [self.decided(seed=self.seed + i) for i in range(SEEDS)]
        return torch.stack([self.differs(one, other) for one, other in pairwise(found)]).any(0)

    @cached_property
    def fickle(self) -> Tensor:
        """Return bool [N]: the image gets other answers under the same seed."""
        return self.differs(self.decided(), self.decided())

    def looked(self, route: str) -> Reading:
        """Return what a surrogate shows of the case's images, under the same seed as `decided`."""
        with isolated(self.seed), torch.no_grad():
            return self.system.surrogates()[route].look(self.x.clone())

    def differs(self, one: Decision, other: Decision) -> Tensor:
        """Return bool [N]: logits or score differ by more than rounding."""
        apart = ~_close(one.logits, other.logits).all(1)
        return apart | ~_close(one.score[:, None], other.score[:, None]).all(1)


def _close(one: Tensor, other: Tensor) -> Tensor:
    """Return whether numbers [N, K] are alike but for rounding; infinities are where they are equal."""
    finite = one[one.isfinite()]
    scale = float(finite.abs().max().clamp_min(1e-6)) if finite.numel() else 1.0
    return (one == other) | ((one - other).abs() <= 1e-4 * scale)


def open_case(
    made: Defence | Pipeline,
    again: Callable[[], Defence | Pipeline] | None,
    images: Tensor | None,
    shape: Shape,
    seed: int,
) -> DefenceCase:
    """Put the defence before a classifier and calibrate it; where ``images`` are given, on a copy of it."""
    if images is not None:
        shape = replace_shape(shape, images)
    x, clean = _images(images, shape, seed)
    fresh = _fresh(made, again, shape)
    system = _system(made, shape)
    if again is None and fresh is not None:
        # What the caller gave stays as it is.
        system, fresh = fresh, _fresh(made, None, shape)
    system.eval()
    problem = _calibrate(system, clean, seed)
    return DefenceCase(system, fresh, problem, x, clean, seed)


def replace_shape(shape: Shape, images: Tensor) -> Shape:
    """Return ``shape`` with the channels and the size of ``images``."""
    return shape._replace(channels=images.shape[1], size=images.shape[-1])


def _images(images: Tensor | None, shape: Shape, seed: int) -> tuple[Tensor, Tensor]:
    clean = pictures(shape, CLEAN, seed) if images is None else images
    own = pictures(shape, ASKED, seed + 1) if images is None else images[:ASKED]
    return torch.cat([own, corners(shape, seed)]), clean


def _system(made: Defence | Pipeline, shape: Shape) -> Pipeline:
    return made if isinstance(made, Pipeline) else Pipeline(Smooth(shape), made)


def _fresh(made: Defence | Pipeline, again: Callable[[], Defence | Pipeline] | None, shape: Shape) -> Pipeline | None:
    if again is not None:
        return _system(again(), shape).eval()
    try:
        return _system(copy.deepcopy(made), shape).eval()
    except Exception:  # whatever a stranger's module raises where it is copied: a rule of its own says so
        return None


def _calibrate(system: Pipeline, clean: Tensor, seed: int) -> str:
    try:
        with isolated(seed), torch.no_grad():
            system.defence.calibrate([part.clone() for part in torch.split(clean, PART)], system.classifier)
    except (Exception, SystemExit) as error:
        return raised(error)
    return ""
