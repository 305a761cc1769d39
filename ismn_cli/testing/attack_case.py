"""An attack tried on linear classifiers whose images lie at known distances from the decision boundary."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.attacks.foreign import Foreign
from ismn_cli.attacks.plugins import LIVE, AttackPlugin, attack_plugin, described
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import Attack, Proposed
from ismn_cli.engine.rng import isolated
from ismn_cli.testing.surroundings import disturbed, same
from ismn_models.shape import Shape

Make = Callable[[ThreatModel, int], Attack]
"""(threat, number of classes) -> the attack, as the harness calls it."""
EPS: Mapping[Norm, float] = {Norm.LINF: 8 / 255, Norm.L2: 0.5}
NEAR, FAR = 0.2, 1.4
"""Distances of the images from the boundary, as shares of eps."""
IMAGES = 16
MOST = 10
"""Classes at most: so many patterns differ."""
BLOCKS = 4
"""Patterns are of blocks, so many a side: attacks that smooth or resize on the way still see them."""


class Linear(nn.Module):
    """Logits are the agreement of an image with a pattern of -1 and 1 for each class."""

    def __init__(self, patterns: Tensor, step: float) -> None:
        """Of ``patterns`` [K, C, S, S]; ``step``: how far pixels lie from grey where a logit is to be about 2."""
        super().__init__()
        self.out = nn.Linear(patterns[0].numel(), len(patterns))
        with torch.no_grad():
            self.out.weight.copy_(2 * patterns.flatten(1) / patterns[0].numel() / step)
            self.out.bias.copy_(-0.5 * self.out.weight.sum(1))
        self.norm = nn.BatchNorm1d(len(patterns), eps=0.0)
        """Does nothing in evaluation mode, and shows who switches to training."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K] of x [N, C, S, S]."""
        logits: Tensor = self.norm(self.out(x.flatten(1)))
        return logits


class Victim(NamedTuple):
    """A linear classifier, images that it answers right, and how large a perturbation each stands, at least."""

    model: nn.Module
    x: Tensor
    y: Tensor
    distance: Tensor
    classes: int


class Trial(NamedTuple):
    """One run of an attack, and what became of its surroundings."""

    proposed: object
    """What it returned."""
    model: list[str]
    """What it changed of the model."""
    settings: list[str]
    """What it changed of torch's settings."""
    inputs: list[str]


@dataclass(frozen=True)
class AttackCase:
    """An attack, in one norm, on images of a shape."""

    make: Make
    norm: Norm
    shape: Shape
    control: bool
    seed: int

    @property
    def eps(self) -> float:
        """The usual perturbation size."""
        return EPS[self.norm]

    @cached_property
    def several(self) -> Victim:
        """A classifier of at least three classes."""
        return victim(min(max(3, self.shape.classes), MOST), self.shape, self.norm, self.seed)

    @cached_property
    def two(self) -> Victim:
        """A classifier of two classes."""
        return victim(2, self.shape, self.norm, self.seed)

    @cached_property
    def trial(self) -> Trial:
        """The attack at the usual size."""
        return self.tried(self.several)

    def borrowed(self, on: Victim) -> nn.Module:
        """Return a victim's classifier as the harness lends it: in evaluation mode, without parameter gradients."""
        return Counted(copy.deepcopy(on.model).eval().requires_grad_(False)).eval()

    def made(self, eps: float | None = None, classes: int | None = None) -> Attack:
        """Return the attack at a size, the usual one unless given."""
        threat = ThreatModel(norm=self.norm, eps=self.eps if eps is None else eps)
        return self.make(threat, classes or self.several.classes)

    def tried(self, on: Victim, eps: float | None = None, x: Tensor | None = None, count: int | None = None) -> Trial:
        """Run the attack as the harness does, but with nothing put right. Raises what it raises."""
        model = self.borrowed(on)
        clean = (on.x if x is None else x)[:count]
        given, labels = clean.clone(), on.y[:count].clone()
        attack = self.made(eps, on.classes)
        found: list[object] = []
        with isolated(self.seed), torch.enable_grad():
            changed = disturbed(model, lambda: found.append(attack(model, given, labels)))
        images = found[0].images if isinstance(found[0], Proposed) else found[0]
        inputs = [] if same(given, clean) else ["it changes the images that it is given"]
        inputs += [] if same(labels, on.y[:count]) else ["it changes the labels that it is given"]
        proposed = images.detach() if isinstance(images, Tensor) else images
        return Trial(proposed, changed.module, changed.settings, inputs)

    def broken(self, on: Victim, eps: float | None = None) -> Tensor:
        """Return bool [N]: whether each image of a victim is answered wrong after the attack."""
        found = self.tried(on, eps).proposed
        if not isinstance(found, Tensor) or found.shape != on.x.shape:
            return torch.zeros(len(on.x), dtype=torch.bool)
        with torch.no_grad():
            return torch.as_tensor(on.model(found.float()).argmax(1) != on.y)


def victim(classes: int, shape: Shape, norm: Norm, seed: int) -> Victim:
    """Return a classifier whose i-th image stands a perturbation of NEAR to FAR times the usual size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 2, (classes, shape.channels, BLOCKS, BLOCKS), generator=generator) * 2.0 - 1
    patterns = nn.functional.interpolate(coarse, size=shape.size, mode="nearest")
    numbers = patterns[0].numel()
    step = EPS[norm] if norm is Norm.LINF else EPS[norm] / math.sqrt(numbers)
    y = torch.arange(IMAGES) % classes
    share = torch.linspace(NEAR, FAR, IMAGES)
    x = 0.5 + step * share[:, None, None, None] * patterns[y]
    return Victim(Linear(patterns, step).eval(), x, y, _distances(x, y, patterns, norm), classes)


def _distances(x: Tensor, y: Tensor, patterns: Tensor, norm: Norm) -> Tensor:
    """Return how large a perturbation changes the answer, [N]: by Hölder's inequality, towards the nearest class."""
    away = patterns[y][:, None] - patterns
    lead = ((x - 0.5)[:, None] * away).flatten(2).sum(2)
    length = away.flatten(2).norm(1 if norm is Norm.LINF else 2, dim=2)
    return torch.where(length > 0, lead / length.clamp_min(1e-12), torch.inf).amin(1)


def making(attack: str | Callable[..., object], params: Mapping[str, JsonValue]) -> Make:
    """Return how to make ``attack`` for a threat and a number of classes. Raises UsageError where it is none."""
    if isinstance(attack, str) and attack in ATTACKS:
        return lambda threat, classes: make_attack(resolve_params(attack, threat, params), classes)
    plugin = plugin_of(attack)

    def make(threat: ThreatModel, classes: int) -> Attack:
        with lent(plugin):
            spec = resolve_params(plugin.entry.name, threat, params)
        # As the attack is, without what the harness puts right around it.
        asked: Attack = Foreign(plugin, spec, classes).asked
        return asked

    return make


def plugin_of(attack: str | Callable[..., object]) -> AttackPlugin:
    """Return an attack of the user's own by its reference, or as it is. Raises UsageError."""
    if isinstance(attack, str):
        return attack_plugin(attack)
    # No name of the catalogue's: it would be found there.
    return described(f"python:{getattr(attack, '__name__', type(attack).__name__)}", "", attack, "")


@contextmanager
def lent(plugin: AttackPlugin) -> Iterator[None]:
    """Let an attack be found by its name during a block."""
    before = LIVE.get(plugin.entry.name)
    LIVE[plugin.entry.name] = plugin
    try:
        yield
    finally:
        del LIVE[plugin.entry.name]
        if before is not None:
            LIVE[plugin.entry.name] = before


def norms_of(attack: str | Callable[..., object]) -> tuple[Norm, ...]:
    """Return the norms that an attack can do. Raises UsageError."""
    if isinstance(attack, str) and attack in ATTACKS:
        return ATTACKS[attack].norms
    return plugin_of(attack).entry.norms
