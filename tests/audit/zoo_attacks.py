"""Attacks with one planted fault each, and the small models that they are tried on.

Images are 3 x 8 x 8 of four classes. Each class has a faint pattern in every pixel, which 8/255 erases, and perhaps a
corner of its own that is brighter, which 8/255 hides in some images only: a net without the corners falls, one that
is trained on adversarial examples with them holds on most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ismn_cli.attacks.evasion import look
from ismn_cli.attacks.noise import Streams, uniform_start
from ismn_cli.attacks.objectives import ce, margin
from ismn_cli.core.attack_entry import BOTH, AttackEntry
from ismn_cli.core.specs import AttackSpec, Norm
from ismn_cli.engine.ball import project
from ismn_models.crafting import pgd

CLASSES = 4
EPS = 8 / 255
STD = 0.25
"""As in a usual normalisation."""


class Small(NamedTuple):
    """A net, and images that it was not trained on."""

    net: nn.Module
    x: Tensor
    y: Tensor


def images(n: int, seed: int, bright: float) -> tuple[Tensor, Tensor]:
    """Return images [n, 3, 8, 8] in [0, 1] and their classes."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(7)).sign()
    y = torch.arange(n) % CLASSES
    x = 0.5 + 0.012 * patterns[y] + 0.03 * torch.randn(n, 3, 8, 8, generator=generator)
    light = bright * torch.rand(n, generator=generator)
    for i, corner in enumerate(y.tolist()):
        row, column = 4 * (corner // 2), 4 * (corner % 2)
        x[i, :, row : row + 4, column : column + 4] += light[i]
    return x.clamp(0, 1), y


@cache
def plain() -> Small:
    """A net without any defence."""
    return _trained(0.0, lambda net, x, y: x)


@cache
def hardened() -> Small:
    """A net trained on PGD examples (Madry et al. 2018)."""
    return _trained(0.2, lambda net, x, y: pgd(net, x, y, EPS, steps=5, step_size=EPS / 2))


def _trained(bright: float, craft: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Small:
    torch.set_num_threads(1)
    x, y = images(400, 0, bright)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.Softplus(beta=10), nn.Flatten(), nn.Linear(12 * 64, CLASSES)
        )
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(60):
            examples = craft(net, x, y)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(examples), y).backward()
            optimiser.step()
    net.zero_grad(set_to_none=True)
    return Small(net.eval(), *images(24, 1, bright))


class Noisy(nn.Module):
    """A net behind noise that is drawn anew at each look."""

    def __init__(self, net: nn.Module, size: float) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x + self.size * torch.randn_like(x))
        return logits


class Saturated(nn.Module):
    """A net with logits so large that their cross-entropy has no gradient in single precision."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 1000 * self.net(x)
        return logits


class Leaky(nn.Module):
    """A net that has learnt what a step away from a class looks like: its logits then name that class."""

    def __init__(self, net: nn.Module, clean: Tensor) -> None:
        super().__init__()
        self.net = net
        with torch.no_grad():
            self.usual = float(self._spread(net(clean)).max())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return torch.where(self._spread(logits) > self.usual, -logits, logits)

    def _spread(self, logits: Tensor) -> Tensor:
        return (logits.amax(1) - logits.amin(1))[:, None]


class Good:
    """PGD with restarts that keeps the best point of all: no fault."""

    keeps_best = True
    sign = 1.0

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        params: dict[str, Any] = dict(spec.params)
        self.eps, self.threat = spec.threat.eps, spec.threat
        self.alpha: float = params["alpha"]
        self.steps: int = params["steps"]
        self.restarts: int = params["restarts"]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        streams = Streams(x)
        best, lead = x.clone(), torch.full((len(x),), -torch.inf)
        for _ in range(self.restarts):
            point = self.ball(uniform_start(x, self.threat, streams), x)
            for _ in range(self.steps):
                leaf = point.detach().requires_grad_()
                logits = look(model, leaf).logits
                self._keep(best, lead, leaf.detach(), margin(logits.detach(), y))
                (slope,) = torch.autograd.grad(ce(logits, y).sum(), leaf)
                point = self.ball(point + self.step(self.sign * slope), x)
            with torch.no_grad():
                last = look(model, point).logits
            self._keep(best, lead, point, margin(last, y))
        return best if self.keeps_best else point

    def step(self, slope: Tensor) -> Tensor:
        if self.threat.norm is Norm.L2:
            return self.alpha * nn.functional.normalize(slope.flatten(1), dim=1).view_as(slope)
        return self.alpha * slope.sign()

    def ball(self, point: Tensor, x: Tensor) -> Tensor:
        return project(point, x, self.threat.model_copy(update={"eps": self.eps}))

    def _keep(self, best: Tensor, lead: Tensor, point: Tensor, new: Tensor) -> None:
        better = new > lead
        best[better], lead[better] = point[better], new[better]


class StopsEarly(Good):
    """Takes a fifth of its steps."""

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.steps = max(1, self.steps // 5)


class FixedSteps(Good):
    """Takes five steps, whatever it is told."""

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.steps = 5


class ReturnsLast(Good):
    """Strides from one end of the ball to the other, and returns where it stands at the end, the start at worst."""

    keeps_best = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        last = super().__call__(model, x, y)
        # It oscillates: one step more, without a look at what it does.
        leaf = last.detach().requires_grad_()
        (slope,) = torch.autograd.grad(ce(model(leaf), y).sum(), leaf)
        return self.ball(last - 2 * self.eps * slope.sign(), x)


class SmallBall(Good):
    """Applies eps to normalised images: the ball is a quarter of what it should be."""

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.eps, self.alpha = self.eps * STD, self.alpha * STD


class LargeBall(Good):
    """Divides eps by the standard deviation once too often: it leaves the threat model."""

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.eps, self.alpha = self.eps / STD, self.alpha / STD


class SignFlip(Good):
    """Descends."""

    sign = -1.0


class TinyStep(Good):
    """A step size that is a hundredth of what it should be."""

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.alpha /= 100


class IgnoresRestarts(Good):
    """Runs once, however many restarts are asked for."""

    def __init__(self, spec: AttackSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.restarts = 1


class ReturnsClean(Good):
    """Does its work, and returns the clean image."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        super().__call__(model, x, y)
        return x


class Crashes(Good):
    """Raises."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("there is no such thing")


FAULTS = (
    Good,
    StopsEarly,
    FixedSteps,
    ReturnsLast,
    SmallBall,
    LargeBall,
    SignFlip,
    TinyStep,
    IgnoresRestarts,
    ReturnsClean,
    Crashes,
)


def entries() -> dict[str, AttackEntry]:
    """Return the faulty attacks as the catalogue would list them, by name."""
    return {
        cls.__name__: AttackEntry(
            cls.__name__,
            f"zoo_attacks:{cls.__name__}",
            BOTH,
            str(cls.__doc__),
            {"alpha": "eps/4", "steps": 20, "restarts": 2},
            own=True,
            expects=0.9,
        )
        for cls in FAULTS
    }
