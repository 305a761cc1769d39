"""Models with one planted fault each, around a small net that has really learnt something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ismn_cli.engine.normalised import Normalised

CLASSES, SIZE = 4, 8
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EPS = 8 / 255


def images(n: int, seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """A square whose quarter tells the class, as the background does a little: [n, 3, 8, 8] in grey levels, [n]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = 0.3 + 0.15 * torch.randn(n, 3, SIZE, SIZE, generator=generator)
    x += 0.05 * y[:, None, None, None]
    for label in range(classes):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[y == label, :, row : row + 4, column : column + 4] += 0.09
    return (x.clamp(0, 1) * 255).round() / 255, y


class Net(nn.Module):
    """Batch norm and dropout, as real nets have them."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(16 * 16, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        return self.out(self.drop(hidden.flatten(1)))


def trained(classes: int = CLASSES, scale: Callable[[Tensor], Tensor] = lambda x: x, robust: bool = False) -> Net:
    """Train on pixels scaled by ``scale``; ``robust``: on what one step of FGSM leaves."""
    torch.manual_seed(0)
    net, (x, y) = Net(classes), images(600, 1, classes)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(90):
        chosen = torch.randint(len(x), (64,))
        batch, labels = x[chosen], y[chosen]
        if robust:
            batch = fgsm(net, batch, labels)
        net.train()
        loss = F.cross_entropy(net(scale(batch)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def fgsm(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(x), y), x)
    return (x + EPS * gradient.sign()).clamp(0, 1).detach()


@dataclass
class Trained:
    """The nets that the faults are planted in, made once a session."""

    plain: Net = field(default_factory=trained)
    robust: Net = field(default_factory=lambda: trained(robust=True))
    normalised: Net = field(default_factory=lambda: trained(scale=lambda x: _scaled(x, *IMAGENET)))
    wide: Net = field(default_factory=lambda: trained(scale=lambda x: x * 255))
    signed: Net = field(default_factory=lambda: trained(scale=lambda x: 2 * x - 1))
    binary: Net = field(default_factory=lambda: trained(classes=2))


def _scaled(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


class Around(nn.Module):
    """``before`` the net's pixels, ``after`` its logits."""

    def __init__(
        self, net: nn.Module, before: Callable[..., Tensor] | None = None, after: Callable[..., Tensor] | None = None
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before or (lambda x: x), after or (lambda z: z)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class StuckBatchNorm(Around):
    """Batch norm stays in training mode whatever it is told."""

    def train(self, mode: bool = True) -> StuckBatchNorm:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = True
        return self


class Purified(Around):
    """Descends its own loss in pixels before it answers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            logits = self.net(start)
            loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
            (step,) = torch.autograd.grad(loss, start)
        return self.net(x - 0.01 * step.sign())


class Backward(Around):
    """The same by loss.backward()."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            self.net(start).logsumexp(1).sum().backward()
        return self.net(x - 0.001 * start.grad)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x * 255).round() / 255

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Ungraded(Around):
    """Answers without a graph."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def copied(net: Net) -> Net:
    copy = Net(net.out.out_features)
    copy.load_state_dict(net.state_dict())
    return copy.eval()


def constant(z: Tensor) -> Tensor:
    return torch.eye(CLASSES)[:1].to(z).expand(len(z), -1) + 0 * z


def some_nan(z: Tensor) -> Tensor:
    return torch.where((z.argmax(1) == 0)[:, None], torch.nan, z)


def opened(x: Tensor) -> Tensor:
    """Leave the pixels as they are, with an infinite derivative."""
    return x + (x - x).sqrt()


@dataclass(frozen=True)
class Fault:
    """A model with a fault, the codes that fail and that warn for it, and those that may fail in its wake."""

    model: Callable[[Trained], nn.Module]
    fails: tuple[str, ...] = ()
    warns: tuple[str, ...] = ()
    wake: tuple[str, ...] = ()


def _before(change: Callable[..., Tensor], *fails: str, **more: tuple[str, ...]) -> Fault:
    return Fault(lambda nets: Around(nets.plain, before=change), fails, **more)


def _after(change: Callable[..., Tensor], *fails: str, **more: tuple[str, ...]) -> Fault:
    return Fault(lambda nets: Around(nets.plain, after=change), fails, **more)


NO_PATH = ("GM03", "GM10")
GUESSING = ("EV05", "MD03")
"""What pixels on another scale may end in."""

FAULTS = {
    "softmax output": _after(lambda z: z.softmax(1), "GM08"),
    "functional dropout": _before(lambda x: F.dropout(x, 0.1), "MD01", "RN02"),
    "alpha dropout": _before(lambda x: F.alpha_dropout(x, p=0.02, training=True), "MD01", "RN02"),
    "batch norm in training mode": Fault(lambda nets: copied(nets.plain).train(), warns=("MD01",)),
    "batch norm stuck in training mode": Fault(lambda nets: StuckBatchNorm(copied(nets.plain)), ("MD01", "MD05")),
    "rounded inputs": _before(lambda x: (x * 255).round() / 255, "MD08", *NO_PATH),
    "inputs of five bits": _before(lambda x: (x * 31).floor() / 31, "MD08", *NO_PATH),
    "rounded inputs, straight through": _before(StraightThrough.apply, warns=("MD08",)),
    "saturated logits": _after(lambda z: 1000 * z, "GM03", "GM12"),
    "noise in the pixels": _before(lambda x: x + 0.05 * torch.randn_like(x), "RN02"),
    "noise in the logits": _after(lambda z: z + 0.1 * torch.randn_like(z), "RN02"),
    "gradient detached": _before(lambda x: x.detach(), *NO_PATH),
    "no gradients allowed": Fault(lambda nets: Ungraded(nets.plain), NO_PATH),
    "through numpy": _before(lambda x: torch.from_numpy(x.detach().cpu().numpy()), *NO_PATH),
    "constant answer": _after(constant, *GUESSING),
    "nearly constant answer": _after(lambda z: 1e-5 * z + torch.eye(CLASSES)[2].to(z), *GUESSING),
    "optimisation inside": Fault(lambda nets: Purified(nets.plain), ("GM09",)),
    "backward inside": Fault(lambda nets: Backward(nets.plain), ("GM09",)),
    "NaN for one class": _after(some_nan, "MD06"),
    "NaN": _after(lambda z: z * torch.nan, "MD06"),
    "infinite gradient": _before(opened, "MD06"),
    "no normalisation": Fault(lambda nets: nets.normalised, ("MD07",), wake=GUESSING),
    "normalised twice": Fault(
        lambda nets: Normalised(Normalised(nets.normalised, *IMAGENET), *IMAGENET), ("MD07",), wake=GUESSING
    ),
    "normalised twice inside": Fault(
        lambda nets: Around(Normalised(nets.normalised, *IMAGENET), before=lambda x: _scaled(x, *IMAGENET)),
        ("MD07",),
        wake=GUESSING,
    ),
    "pixels of 0 to 255": Fault(lambda nets: nets.wide, ("MD02",), wake=GUESSING),
    "pixels of -1 to 1": Fault(lambda nets: nets.signed, ("MD02",), wake=GUESSING),
    "classes in another order": _after(lambda z: z.roll(1, 1), "MD03"),
    "two classes swapped": _after(lambda z: z[:, [0, 1, 3, 2]], "MD03"),
    "too many classes": _after(lambda z: F.pad(z, (0, 6), value=-9.0), "MD04"),
    "too few classes": _after(lambda z: z[:, :3], "MD04"),
    "maps instead of logits": _after(lambda z: z[:, :, None, None], "MD04"),
    "shattered loss": _after(lambda z: z + 4 * torch.sin(300 * z), "GM11"),
}
