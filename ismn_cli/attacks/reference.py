"""The reference AutoAttack (Croce and Hein 2020, arXiv 2003.01690), run by its authors' own code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from pyautoattack import AutoAttack, checks
from pyautoattack.autopgd_base import APGDAttack_targeted
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import AttackSpec, Norm
from ismn_cli.engine.craft import Proposed

PREFIX = "autoattack: "
_NORMS = {Norm.LINF: "Linf", Norm.L2: "L2"}
_TARGETS = 9
_PROBABLE = 1e-5
"""How near to 1 the outputs of each image sum where the package takes them for probabilities."""
_CLASSES_NEEDED = {"apgd-dlr": 3, "apgd-t": 4}
_SQUARE = "Square Attack has decreased"
_FINDINGS = {
    "randomized defense": "randomised: the same images get different answers, over which version=rand averages",
    "probability distribution": "probabilities: the outputs look like probabilities where the losses want logits",
    "zero gradient": "zero gradient: for some images APGD starts without a gradient, so its failure says little",
    "dynamic defense": "dynamic: the system takes gradients itself while it answers, which may hide it from attacks",
    _SQUARE: "square: Square broke images that the gradient attacks before it had left",
    "with only": "",  # too few classes: `_substitute` sees to it, and says so
}
"""What the package's checks say, by a part of their wording, and the note that stands for it. Their counts are
left out: they differ from batch to batch, and the same finding is to be told once."""


@dataclass(frozen=True)
class Reference:
    """AutoAttack as an attack, a batch at a time: each stage attacks what the ones before it left right.

    standard: APGD-CE, APGD-T, FAB-T (9 targets each) and Square with 5,000 queries. plus: 5 restarts, APGD-DLR
    and FAB too. rand: APGD-CE and APGD-DLR, each gradient a mean of 20. custom: ``attacks``, at the package's
    defaults, which are 5 restarts for APGD-CE, APGD-DLR and FAB. APGD and FAB take 100 steps.

    The targets are at most the other classes. Where a DLR loss has no divisor, for want of a third logit, or a
    fourth if it is targeted, the margin that it divides stands in; a note says so. The findings of the
    package's own checks are notes as well; all begin with `PREFIX`.
    """

    spec: AttackSpec
    num_classes: int
    stage: int | None = None
    """The only one that is run, counted from 0; None: all in turn."""

    @cached_property
    def rounds(self) -> tuple[Reference, ...]:
        """One for each stage: most of a batch has fallen before the dear ones begin."""
        stages = self._build(nn.Identity(), torch.device("cpu"), 0).attacks_to_run
        return tuple(replace(self, stage=number) for number in range(len(stages)))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Proposed:
        """Attack ``model`` on x [N, C, H, W] in [0, 1] with labels y int64 [N].

        Raises UsageError if the model gives fewer logits than there are classes.
        """
        if self.spec.threat.eps == 0:
            return Proposed(x)
        findings = _Findings("autoattack")
        # It reseeds the global generator: with a draw from it, this too depends on the cell and the batch.
        ensemble = self._build(model, x.device, int(torch.randint(2**31 - 1, ())))
        note = _substitute(ensemble, self.num_classes)
        last_resort = self._only(ensemble)
        for part in (ensemble, ensemble.apgd, ensemble.apgd_targeted):
            part.logger = findings
        with _clean_checks():
            # Contiguous: the package takes views that a channels-last tensor does not have.
            adversarial, answers = ensemble.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))
        settled = answers != y
        if last_resort and bool(settled.any()):
            findings.warning(_SQUARE)
        return Proposed(adversarial, (*note, *findings.notes()), settled=settled)

    def _only(self, ensemble: Any) -> bool:
        """Leave one stage in ``ensemble``, set as those before it set it. Return whether it is Square after others."""
        if self.stage is None:
            return False
        *before, name = ensemble.attacks_to_run[: self.stage + 1]
        if "fab-t" in before:
            ensemble.fab.n_restarts = 1
        ensemble.attacks_to_run = [name]
        return bool(before) and name == "square"

    def _build(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        version, attacks, threat = self.spec.params["version"], self.spec.params["attacks"], self.spec.threat
        ensemble = AutoAttack(
            model,
            attacks=str(attacks).split("+") if version == "custom" else None,
            device=device,
            eps=threat.eps,
            norm=_NORMS[threat.norm],
            seed=seed,
            version=version,
        )
        ensemble.verbose = False
        # Its checks look first, and through this; the attacks call the model.
        ensemble.get_logits = partial(_logits, model, self.num_classes)
        targets = min(_TARGETS, self.num_classes - 1)
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
        return ensemble


def _logits(model: nn.Module, least: int, x: Tensor) -> Tensor:
    logits: Tensor = model(x)
    if logits.ndim != 2 or logits.shape[1] < least:
        raise UsageError(
            f"The model answers {list(logits.shape)} for {len(x)} images of {least} classes.",
            "AutoAttack wants a logit for each class. Of one logit z make two: [0, z].",
        )
    if logits.shape[1] == 2 and bool(((logits.sum(1) - 1).abs() > _PROBABLE).any()):
        # At unit length, at which it looks for draws, [0, z] is all sign. In double precision no answer is lost.
        return logits.double() + logits.abs().mean()
    return logits


def _substitute(ensemble: Any, num_classes: int) -> tuple[str, ...]:
    """Put the margin where a DLR loss is not defined, and return a note if that is ever used."""
    lacking = [name for name in ensemble.attacks_to_run if num_classes < _CLASSES_NEEDED.get(name, 0)]
    if "apgd-dlr" in lacking:
        ensemble.apgd.dlr_loss = _margin
    if "apgd-t" in lacking:
        old = ensemble.apgd_targeted
        ensemble.apgd_targeted = _TargetedMargin(
            old.model,
            norm=old.norm,
            eps=old.eps,
            seed=old.seed,
            device=old.device,
            n_target_classes=old.n_target_classes,
        )
    names = " and ".join(lacking)
    few = f"{PREFIX}classes: {num_classes} are too few for the DLR loss of {names}; its margin alone stands in"
    return (few,) if lacking else ()


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus that of y, [N]."""
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - logits.gather(1, y[:, None]).squeeze(1)


class _TargetedMargin(APGDAttack_targeted):  # type: ignore[misc]
    """APGD-T on the target's logit minus that of y: the targeted DLR loss without its divisor."""

    def dlr_loss_targeted(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss [N]."""
        pair = logits.gather(1, torch.stack([self.y_target, y], dim=1))
        return pair[:, 0] - pair[:, 1]


class _Findings(logging.Logger):
    """Stands in for the package's logger: keeps what its checks warn of, writes nothing anywhere."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.said: list[str] = []

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Return whether it warns: whatever the process has its logging set to."""
        return level >= logging.WARNING

    def handle(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.said.append(record.getMessage())

    def notes(self) -> tuple[str, ...]:
        """Return each finding once, in the order of the checks."""
        found = (next((note for part, note in _FINDINGS.items() if part in said), said) for said in self.said)
        return tuple(dict.fromkeys(PREFIX + note for note in found if note))


@contextmanager
def _clean_checks() -> Iterator[None]:
    """Keep the package's check for gradients in the forward pass to the model at hand.

    It counts calls with a trace function, never starts again from 0, and leaves the process without the trace
    function that was there before, such as a debugger's.
    """
    tracing = sys.gettrace()
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(tracing)
