"""The one door to torchattacks: what the rest of the house needs to know about its ways ends here."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ismn_cli.attacks.foreign import foreign_attack
from ismn_cli.attacks.lent import NORMS, AboveZero, OnDevice, Plain, contained
from ismn_cli.attacks.objectives import targeted_margin
from ismn_cli.attacks.params import find_attack, resolve_params
from ismn_cli.core.attack_catalogue import AttackEntry
from ismn_cli.core.catalogue import load
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import AttackSpec
from ismn_cli.engine.ball import allowed, project
from ismn_cli.engine.craft import Attack, Proposed

__all__ = ["Attack", "make_attack", "resolve_params"]

_DLR_CLASSES, _TARGETED_DLR_CLASSES = 3, 4
"""The loss divides by the distance from the first logit to the third; targeted, to the third and the fourth."""


def make_attack(spec: AttackSpec, num_classes: int) -> Attack:
    """Return the attack as a function (model, x, y) -> x', ready for `ismn_cli.engine.craft.craft_batch`.

    ``model`` maps x [N, C, H, W] in [0, 1] to logits [N, ``num_classes``]. Parameters missing from ``spec``
    take their defaults. All attacks work from two classes; where APGD-T's loss has no divisor, below four, its
    margin alone stands in, and a note says so. Raises UsageError for what the attack does not know: parameters,
    the norm, a loss for so few classes.
    """
    entry = find_attack(spec.method)
    if entry.plugin:
        return foreign_attack(spec, num_classes)
    spec = resolve_params(spec.method, spec.threat, spec.params)
    _check_classes(entry, spec, num_classes)
    if entry.own:
        attack: Attack = load(entry.cls)(spec, num_classes)
        return attack
    return _Torchattack(entry, spec, num_classes)


def _check_classes(entry: AttackEntry, spec: AttackSpec, num_classes: int) -> None:
    if num_classes < 2:
        raise UsageError(
            f"{spec.method} needs at least 2 classes; there are {num_classes}.",
            "With one class no answer is wrong. A model of two classes with one logit z answers as [0, z].",
        )
    if spec.params.get("loss") == "dlr" and num_classes < _DLR_CLASSES:
        others = ", ".join(f"loss={loss}" for loss in entry.choices["loss"] if loss != "dlr")
        raise UsageError(
            f"{spec.method} with loss=dlr needs at least {_DLR_CLASSES} classes; there are {num_classes}.",
            f"The DLR loss divides by the distance to the third logit. For two classes: {others}.",
        )


@dataclass(frozen=True)
class _Torchattack:
    """An attack with its parameters. The torchattacks object, which holds the model, lives for one call."""

    entry: AttackEntry
    spec: AttackSpec
    num_classes: int
    whole_groups: ClassVar[bool] = True
    """Several average a loss over the batch: an image's gradient is rounded by how many there are."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor | Proposed:
        threat = self.spec.threat
        if self.entry.channels not in (None, x.shape[1]):
            wanted = f"{self.entry.name} is written for images with {self.entry.channels} channels"
            raise UsageError(f"{wanted}; these have {x.shape[1]}.", "`ismn list attacks` shows the others.")
        if threat.eps == 0:
            # Nothing is allowed, and several attacks would divide by it.
            return x
        # Several of torchattacks' L2 attacks take views of images and gradients that only plain memory allows.
        plain = Plain(model, torch.contiguous_format if x.is_contiguous() else torch.channels_last)
        attack = self._build(plain, x.device)
        notes = _without_divisor(attack, self.num_classes)
        proposed: Tensor = attack(x.contiguous(), y).detach()
        if self.entry.minimum_norm:
            proposed = torch.where(allowed(proposed, x, threat)[:, None, None, None], proposed, x)
        elif self.entry.eps_parameter is None:
            proposed = project(proposed, x, threat)
        return Proposed(proposed, notes) if notes else proposed

    def _build(self, model: nn.Module, device: torch.device) -> Any:
        cls = _contained(self.entry.cls)
        arguments: dict[str, JsonValue] = dict(self.spec.params)
        if self.entry.eps_parameter is not None:
            arguments[self.entry.eps_parameter] = self.spec.threat.eps
        if arguments.get("noise_type") == "gaussian":
            arguments["noise_type"] = "guassian"  # torchattacks' spelling
        arguments |= {name: value for name, value in self._settings().items() if name in _parameters(cls)}
        if self.entry.margin_from_zero:
            model = AboveZero(model)
        if next(model.parameters(), None) is None:
            model = OnDevice(model, device)
        return cls(model, **arguments)

    def _settings(self) -> dict[str, JsonValue]:
        """Return what the harness sets in every attack that knows it.

        Attacks with a seed of their own reseed the global generator on each batch: they get one drawn from
        it, so that it depends on the cell's seed and the batch like all else.
        """
        seed = int(torch.randint(2**31 - 1, ()))
        return {"norm": NORMS[self.spec.threat.norm], "seed": seed, "n_classes": self.num_classes}


def _without_divisor(attack: Any, num_classes: int) -> tuple[str, ...]:
    """Put the margin where the targeted DLR loss is not defined, and return a note of it."""
    if num_classes >= _TARGETED_DLR_CLASSES or not hasattr(attack, "dlr_loss_targeted"):
        return ()
    attack.dlr_loss_targeted = targeted_margin
    return (f"classes: {num_classes} are too few for the targeted DLR loss; its margin alone stands in",)


@cache
def _contained(reference: str) -> type:
    """Return the class "module:Class", see `contained`."""
    module, name = reference.split(":")
    return contained(getattr(importlib.import_module(module), name))


@cache
def _parameters(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters)
