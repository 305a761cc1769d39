"""The features before a model's last linear layer, and a new readout of two classes on top of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, softplus

from ismn_cli.attacks.evasion import look
from ismn_cli.audit.still import Still
from ismn_cli.engine.counting import cost_of
from ismn_models.pipeline import Reading, Surrogate

_STEPS = 1000
_AT_REST = 1e-4
"""Gradient of the summed loss at which the fit ends: as in the reference's solver."""

Call = tuple[nn.Module, Tensor, Tensor]


class Features(Surrogate):
    """A model that shows the inputs of its last linear layer [N, D] for logits, and the detector's margin as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, self._features, cost_of(model))

    def _features(self, x: Tensor) -> Reading:
        reading, calls = _listen(self.system, x)
        found = _answering(calls, reading.logits)
        if found is None:
            raise RuntimeError("no linear layer gives the answers")
        return Reading(found[1], reading.margin)


class Binarised(Surrogate):
    """A model with another last layer: logits [N, 2] of which the second stands for a boundary point."""

    def __init__(self, features: Surrogate, weight: Tensor, bias: Tensor, inverted: bool = False) -> None:
        """Read ``features`` by ``weight`` [D] and ``bias``; ``inverted``: what the detector flags has to be reached."""
        super().__init__(features, self._binary, features.cost)
        self.inverted = inverted
        self.register_buffer("weight", torch.stack([-weight, weight]))
        self.register_buffer("bias", torch.stack([-bias, bias]))

    def raise_bar(self, score: float) -> None:
        """Move the boundary between the classes up to where ``score`` was."""
        self.get_buffer("bias").add_(torch.tensor([score, -score]).to(self.get_buffer("bias")))

    def _binary(self, x: Tensor) -> Reading:
        features, margin = look(self.system, x)
        if margin is not None and self.inverted:
            margin = -margin
        return Reading(linear(features, self.get_buffer("weight"), self.get_buffer("bias")), margin)


def features_of(model: nn.Module, x: Tensor) -> Surrogate | None:
    """Return ``model`` as `Features`, tried on images x [n, C, H, W]; None where no linear layer gives its answers.

    A model that is held still stays so.
    """
    inner = model.system if isinstance(model, Still) else model
    with torch.no_grad():
        reading, calls = _listen(inner, x)
    if _answering(calls, reading.logits) is None:
        return None
    features = Features(inner)
    return Still(features, model.seed) if isinstance(model, Still) else features


def fit(features: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return weight [D] and bias [] of a logistic regression without regularisation; None where it does not separate.

    ``features`` [m, D], ``boundary`` bool [m]. The logits (-s, s) of the points span a range of 1: the attack is
    not to be hindered by the scale that a separable fit may run off to.
    """
    shift, scale = features.double().mean(0), features.double().std().clamp_min(1e-12)
    points, sign = (features.double() - shift) / scale, 2.0 * boundary.double() - 1
    solution = _minimise(points, sign)
    scores = points @ solution[:-1] + solution[-1]
    if not bool((scores * sign > 0).all()):
        return None
    weight = solution[:-1] / (2 * scores.abs().max())
    bias = solution[-1] / (2 * scores.abs().max())
    return (weight / scale).to(features), (bias - (weight @ shift) / scale).to(features)


def _minimise(points: Tensor, sign: Tensor) -> Tensor:
    solution = torch.zeros(points.shape[1] + 1, dtype=points.dtype, device=points.device, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [solution], max_iter=_STEPS, tolerance_grad=_AT_REST, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = softplus(-sign * (points @ solution[:-1] + solution[-1])).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return solution.detach()


def _listen(model: nn.Module, x: Tensor) -> tuple[Reading, list[Call]]:
    """Return what ``model`` shows of x, and every call of a linear layer on the way: (layer, input, output)."""
    calls: list[Call] = []
    hooks = [
        module.register_forward_hook(lambda layer, inputs, output: calls.append((layer, inputs[0], output)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        return look(model, x), calls
    finally:
        for hook in hooks:
            hook.remove()


def _answering(calls: list[Call], logits: Tensor) -> Call | None:
    """Return the last call that gave the logits, or the z of two logits [0, z]."""
    for call in reversed(calls):
        features, output = call[1], call[2].detach()
        if output.shape == (len(logits), 1):
            output = pad(output, (1, 0))
        if features.ndim == 2 and output.shape == logits.shape and torch.equal(output, logits.detach()):
            return call
    return None
