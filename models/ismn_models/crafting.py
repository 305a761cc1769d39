"""Attacks for use in training, on a frozen classifier: FGSM, RAND+FGSM, PGD, and a bank of their examples.

Evaluation never uses these: it goes through torchattacks. Here each sample has an eps of its own, and only
torch is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ismn_models.images import Images
from ismn_models.parallel import normal_like, only, uniform_like, whole
from ismn_models.training import Stage

Size = Tensor | float
"""One length in pixel units for all samples, or a tensor [N] with one for each."""


def fgsm(net: nn.Module, x: Tensor, y: Tensor, eps: Size) -> Tensor:
    """Return x + eps sign(grad CE(net(x), y)), clipped to [0, 1] (Goodfellow 2015; Haque and Kang Eq. 1).

    ``x`` [N, C, H, W] in [0, 1], ``y`` int64 [N]; the result has the shape and type of ``x``.
    """
    return (x + _each(eps, x) * _gradient_sign(net, x, y)).clamp_(0, 1)


def rfgsm(net: nn.Module, x: Tensor, y: Tensor, eps: Size, alpha: Size) -> Tensor:
    """Return RAND+FGSM examples: a random sign step, then FGSM with the rest (Tramèr 2018; Eq. 2).

    x_hat = clip(x + alpha sign(N(0, I))), x' = clip(x_hat + (eps - alpha) sign(grad CE(net(x_hat), y))).
    Needs 0 <= alpha <= eps, else the result leaves the ball.
    """
    first, rest = _each(alpha, x), _each(eps, x) - _each(alpha, x)
    start = (x + first * normal_like(x).sign()).clamp_(0, 1)
    return (start + rest * _gradient_sign(net, start, y)).clamp_(0, 1)


def pgd(
    net: nn.Module, x: Tensor, y: Tensor, eps: Size, steps: int, step_size: Size, random_start: bool = True
) -> Tensor:
    """Return L-inf PGD examples (Madry 2018): ``steps`` sign steps, each projected on the ball and [0, 1]."""
    radius, stride = _each(eps, x), _each(step_size, x)
    low, high = (x - radius).clamp_(min=0), (x + radius).clamp_(max=1)
    adversarial = x
    if random_start:
        adversarial = torch.clamp(x + radius * (2 * uniform_like(x) - 1), low, high)
    for _ in range(steps):
        moved = adversarial + stride * _gradient_sign(net, adversarial, y)
        adversarial = torch.clamp(moved, low, high)
    return adversarial.clone() if adversarial is x else adversarial


def ascend(objective: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return sign(grad of the summed ``objective``) at ``x``; no parameter receives a gradient."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(point).sum(), point)
    return gradient.sign()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run a block with ``net`` in eval mode and put every submodule's mode back afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _gradient_sign(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with evaluating(net):
        # The loss in float32: under autocast a confident network's bf16 cross-entropy has no gradient left.
        return ascend(lambda p: nn.functional.cross_entropy(net(p).float(), y, reduction="none"), x)


def _each(size: Size, x: Tensor) -> Tensor:
    """Return ``size`` as a tensor that broadcasts over the samples of ``x``."""
    return torch.as_tensor(size, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)


def _as_bytes(images: Tensor) -> Tensor:
    return (images.detach() * 255).round_().clamp_(0, 255).to(torch.uint8)


class AttackBank:
    """Adversarial examples of a training set, kept as bytes [n, C, H, W] with each sample's eps [n].

    On a frozen classifier an example stays valid from epoch to epoch, and crafting is by far the dearest part
    of training. Bytes round to 1/255, so a kept example may lie up to half a grey level outside its ball.

    Sets of more than `images.KEPT_BYTES` would take too much memory: nothing is kept of them, and every example
    is crafted when it is asked for.
    """

    def __init__(self) -> None:
        self._pixels = torch.empty(0, 0, 0, 0, dtype=torch.uint8)
        self._filled = torch.empty(0, dtype=torch.bool)
        self._eps = torch.empty(0)

    def reserve(self, train: Images) -> None:
        """Make room for examples of ``train``, where its pixels are. What is kept already stays if the size fits."""
        n = len(train) if train.may_keep() else 0
        shape = (n, *train.pixels.shape[1:])
        if self._pixels.shape != shape:
            self._pixels = torch.zeros(shape, dtype=torch.uint8)
            self._filled = torch.zeros(n, dtype=torch.bool)
            self._eps = torch.zeros(n)
        self._pixels = self._pixels.to(train.pixels.device)
        self._filled, self._eps = self._filled.to(train.labels.device), self._eps.to(train.labels.device)

    def __len__(self) -> int:
        """Return how many examples are kept."""
        return int(self._filled.sum())

    def lookup(self, index: Tensor, make: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return (examples float [N, C, H, W], eps [N]) of the training images ``index`` [N].

        ``make`` crafts the missing ones: it gets their positions int64 [m] *within the batch* and returns
        (x_adv [m, C, H, W] in [0, 1], eps [m]). It is not called when nothing is missing. Kept and fresh
        examples are rounded alike, so a resumed run sees what an uninterrupted one sees.
        """
        if not len(self._filled):
            examples, eps = make(torch.arange(len(index), device=index.device))
            return _as_bytes(examples).float().div_(255), eps.detach().to(self._eps.dtype)
        where = self._pixels.device
        with only(~self._filled[index]) as missing:
            if missing.total:
                examples, eps = make(missing.at)
                # Kept by every process: the next epoch may give it any of them.
                target, pixels, sizes = whole(index[missing.at]), whole(_as_bytes(examples)), whole(eps)
                self._pixels[target.to(where)] = pixels.to(where)
                self._eps[target] = sizes.detach().to(self._eps.dtype)
                self._filled[target] = True
        return self._pixels[index.to(where)].to(index.device).float().div_(255), self._eps[index]

    def clear(self) -> None:
        """Forget all examples; the room stays."""
        self._filled.zero_()

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        return {"pixels": self._pixels, "filled": self._filled, "eps": self._eps}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        # Copies: `lookup` writes in place, and the caller's tensors are not ours to change.
        self._pixels, self._filled, self._eps = (state[k].clone() for k in ("pixels", "filled", "eps"))


class BankedStage(Stage):
    """A stage with a bank of attacks, which is checkpointed with it."""

    def __init__(self) -> None:
        self.bank = AttackBank()

    def prepare_bank(self, epoch: int, train: Images, refresh: int) -> None:
        """Make room for ``train``; forget what is kept every ``refresh`` epochs."""
        self.bank.reserve(train)
        if epoch % refresh == 0:
            self.bank.clear()

    def state(self) -> dict[str, Any]:
        """See `Stage.state`; the attacks in use are part of it."""
        return super().state() | {"bank": self.bank.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Stage.load_state`."""
        super().load_state(state)
        self.bank.load_state(state["bank"])
