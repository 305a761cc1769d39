"""Cheaper passes for the search: bf16 where the answer is clear, float32 where it is close.

An attack's thousands of passes only have to lead somewhere; what it returns is judged in float32 all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ismn_cli.core.specs import Search
from ismn_cli.engine.device import has_bf16
from ismn_cli.engine.folding import folded
from ismn_cli.engine.groups import answered
from ismn_cli.engine.locality import Local
from ismn_cli.engine.modes import evaluating
from ismn_models.pipeline import Defence, Pipeline, Surrogate

CLOSE = 0.01
"""Share of the range of an image's logits that its two largest may be apart to count as close. In bf16 the distance
was off by 0.001 to 0.002 of the range in the middle and by 0.022 at most, on 200 CIFAR-10 images before and under PGD;
none lay on another side that was further than 0.005 from it. On the boundary itself it is off by more: of 200 images
each moved there, 2 of the hardened net and 13 of the undefended one were on the other side without being close."""


class _Asked(NamedTuple):
    """The logits [N, K] of those of ``images`` [N, C, H, W] where ``known``, bool [N]."""

    images: Tensor
    known: Tensor
    logits: Tensor


class _Exact:
    """A net's logits, without asking twice for what it was asked last.

    FAB looks at an image to see whether it is across, and takes the gradient at the same place if it is not. A net that
    draws at random is asked each time: expectations over its draws (EOT) need new ones.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.last = _Asked(torch.empty(0), torch.empty(0), torch.empty(0))

    @torch.no_grad()
    def __call__(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Return the logits for x[wanted], of images [N, C, H, W] and bool [N]."""
        if x.shape == self.last.images.shape:
            known = wanted & self.last.known & (x == self.last.images).flatten(1).all(1)
        else:
            known = torch.zeros_like(wanted)
        asked = wanted & ~known
        if bool(asked.any()):
            state = _random_state(x.device)
            # Laid out as where it is judged, which is faster too.
            new = answered(self.net, x[asked].contiguous(memory_format=torch.channels_last))
            drew = not torch.equal(state, _random_state(x.device))
            logits = new.new_empty(len(x), *new.shape[1:])
            logits[asked] = new
            if bool(known.any()):
                logits[known] = self.last.logits[known]
            self.last = _Asked(x.clone(), torch.zeros_like(wanted) if drew else wanted, logits)
        return self.last.logits[wanted]


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


class Guarded(nn.Module):
    """A classifier in bf16, and in float32 for the images whose two largest logits are close.

    On which side of its decision boundary an image lies, and how near, is thus known in float32, with exceptions: see
    `denied`. Gradients are bf16's. On a CPU, queries without a gradient that change little of the images are answered
    by `Local`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.light: nn.Module | None = None
        self.local: Local | None = None
        self.exact = _Exact(net)
        self.in_float32 = False
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits [N, K] for x [N, C, H, W] in [0, 1]."""
        if self.in_float32:
            logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
            return logits
        if self.local is None:
            self.light = lighter(self.net, x)
            self.local = Local(self.light)
        logits = self.local(x.to(torch.bfloat16, memory_format=torch.channels_last)).float()
        close = _close(logits.detach())
        if not bool(close.any()):
            return logits
        rough = logits[close]
        if not rough.requires_grad:
            return logits.index_put((close,), self.exact(x, close))
        if not bool(rough.isfinite().all()):
            return logits.index_put((close,), self.net(x[close]))
        return logits.index_put((close,), self.exact(x.detach(), close) - rough.detach(), accumulate=True)


class Plain(nn.Module):
    """A classifier in float32, asked in the layout that is fastest.

    On a CPU, queries without a gradient that change little of the images are answered by `Local`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.local = Local(net)
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, H, W] in [0, 1]."""
        # A copy: `Local` keeps what it is asked.
        return self.local(x.clone(memory_format=torch.channels_last))


def lighter(net: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of ``net`` for bf16 images of the shape of x [N, C, H, W], its batch normalisations folded away."""
    light: nn.Module = folded(net, x).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return light


def can_be_guarded(net: nn.Module, x: Tensor) -> bool:
    """Return whether ``net`` can be copied, converted to bf16, and still answers x [N, C, H, W] then."""
    try:
        with evaluating(net), torch.no_grad():
            light = lighter(net, x)(x.to(torch.bfloat16, memory_format=torch.channels_last))
        return isinstance(light, Tensor) and light.is_floating_point()
    except Exception:  # whatever a stranger's module raises where it is copied or converted
        return False


def _close(logits: Tensor) -> Tensor:
    """Return bool [N]; NaN is close to anything."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return ~(first - second > CLOSE * (first - logits.amin(1)))


def for_search(pipeline: Pipeline, search: Search) -> Pipeline:
    """Return what an attack searches on: ``pipeline`` with its bare classifiers plain, or in "bf16" guarded.

    A defence stays in float32: its detectors compare scores that bf16 does not tell apart.
    """
    faster = Plain if search is Search.FP32 else Guarded
    base = faster(pipeline.base)
    if type(pipeline.defence) is not Defence:
        return Pipeline(base, pipeline.defence, pipeline.classifier)
    classifier = base if pipeline.classifier is pipeline.base else faster(pipeline.classifier)
    return Pipeline(base, pipeline.defence, classifier)


def sums_in_bf16(model: nn.Module) -> bool:
    """Return whether ``model``, as an attack is given it, is a guarded classifier with nothing before it."""
    system = model.system if isinstance(model, Surrogate) else model
    if isinstance(system, Pipeline) and type(system.defence) is Defence:
        system = system.classifier
    return isinstance(system, Guarded)


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Let the guarded classifiers in ``model`` answer in float32 alone."""
    guarded = [part for part in model.modules() if isinstance(part, Guarded)]
    for part in guarded:
        part.in_float32 = True
    try:
        yield
    finally:
        for part in guarded:
            part.in_float32 = False


@torch.no_grad()
def denied(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return for which x [N, C, H, W] a wrong answer (y int64 [N]) of bf16 is not one in float32: bool [N].

    Of models of which not all `sums_in_bf16` none.
    """
    found = torch.zeros_like(y, dtype=torch.bool)
    if not sums_in_bf16(model) or not len(x):
        return found
    wrong = (answered(model, x).argmax(1) != y).nonzero()[:, 0]
    if len(wrong):
        with in_float32(model):
            found[wrong] = answered(model, x[wrong]).argmax(1) == y[wrong]
    return found


def search_precision(wanted: Search, device: torch.device) -> Search:
    """Return "bf16" for "auto" where the hardware multiplies in it by itself, else "fp32"."""
    if wanted is not Search.AUTO:
        return wanted
    return Search.BF16 if has_bf16(device) else Search.FP32
