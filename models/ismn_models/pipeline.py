"""A classifier and its defence as one module: how a defended system decides, and where an attacker may go through.

Pixels are in [0, 1] throughout; classifiers return logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Classify = Callable[[Tensor], Tensor]


class Decision(NamedTuple):
    """What a system answers for N inputs."""

    logits: Tensor
    """[N, K]: logits of the answer. Defined also where the input is rejected."""
    flagged: Tensor
    """bool [N]: the detector called the input suspicious. All false without a detector."""
    rejected: Tensor
    """bool [N]: no answer is given. A routing system flags but never rejects."""
    score: Tensor
    """[N]: the detector's score, higher is more suspicious; zero without a detector."""
    loops: Tensor
    """int64 [N]: how often the input was regenerated; 0 is the clean route."""


class Defence(nn.Module):
    """Base of all defences: by itself it does nothing. Override `reform`, and `score` or `decide`.

    ``policy`` says what a flag means: "pass" (no detector), "reject" (MagNet), "route" (ISMN, PRN).
    A detector flags an input whose score is at or above ``threshold``, which `calibrate` fits on clean
    validation images once, before any attack.
    """

    policy: str = "pass"
    differentiable: bool = True
    """False when `reform` has no useful gradient: an adaptive attacker then needs BPDA."""
    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(float("inf")))

    def reform(self, x: Tensor) -> Tensor:
        """Return the cleaned images, same shape, in [0, 1]."""
        return x

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        """Return suspicion [N], higher is more suspicious."""
        return x.new_zeros(len(x))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit thresholds on clean images [n, C, H, W]."""

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        """Answer for x [N, C, H, W]."""
        score = self.score(x, classify)
        flagged = score >= self.threshold
        reformed = self.reform(x)
        if self.policy == "route":
            chosen = flagged[:, None, None, None]
            logits = classify(torch.where(chosen, reformed, x))
            return Decision(logits, flagged, torch.zeros_like(flagged), score, flagged.long())
        rejected = flagged if self.policy == "reject" else torch.zeros_like(flagged)
        return Decision(classify(reformed), flagged, rejected, score, torch.ones_like(flagged).long())

    def surrogates(self, classify: Classify) -> dict[str, nn.Module]:
        """Return the differentiable functions x -> logits that an adaptive attacker should go through."""
        return {"reformed": Through(self.reform, classify)}


class Through(nn.Module):
    """x -> classify(reform(x)), for attacks that want one module with logits."""

    def __init__(self, reform: Callable[[Tensor], Tensor], classify: Classify) -> None:
        super().__init__()
        self.reform, self.classify = reform, classify

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, K]."""
        return self.classify(self.reform(x))


class Pipeline(nn.Module):
    """A defended system.

    ``base`` is the undefended classifier that a gray-box attacker holds; ``classifier`` gives the answers. They
    are the same module unless the defence brings a hardened classifier of its own, as ISMN does.
    """

    def __init__(self, base: nn.Module, defence: Defence, classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.base = base
        self.defence = defence
        self.classifier = base if classifier is None else classifier

    def decide(self, x: Tensor) -> Decision:
        """Answer for x [N, C, H, W] in [0, 1]."""
        decision: Decision = self.defence.decide(x, self.classifier)
        return decision

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K] of the answer, as a white-box attacker sees them."""
        return self.decide(x).logits

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules that have weights of their own, by name: base, defence and perhaps classifier."""
        own = {"base": self.base, "defence": self.defence}
        return own if self.classifier is self.base else own | {"classifier": self.classifier}
