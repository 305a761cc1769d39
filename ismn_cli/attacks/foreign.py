"""Attacks of the user's own, called as they want to be: a function, or a class derived from torchattacks' Attack.

What they leave changed of the model and of torch is found by `ismn_cli.engine.guard`; what they do to the images and
labels that they are given, here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ismn_cli.attacks.lent import NORMS, OnDevice, Plain, contained
from ismn_cli.attacks.params import resolve_params
from ismn_cli.attacks.plugins import AttackPlugin, attack_plugin
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import AttackSpec
from ismn_cli.engine.ball import allowed
from ismn_cli.engine.craft import Attack, Proposed


def foreign_attack(spec: AttackSpec, num_classes: int) -> Attack:
    """Return the user's attack, ready for `ismn_cli.engine.craft.craft_batch`; see `adapter.make_attack`.

    Raises UsageError as `resolve_params` does, and where its code is no longer what ``spec`` pins.
    """
    full = resolve_params(spec.method, spec.threat, spec.params)
    if spec.code not in ("", full.code):
        raise UsageError(
            f"The code of {spec.method} has changed since: sha256 {spec.code[:8]} then, {full.code[:8]} now.",
            "Put the file back as it was, or run the attack anew.",
        )
    if num_classes < 2:
        raise UsageError(f"{spec.method} needs at least 2 classes; there are {num_classes}.", "No answer is wrong.")
    return Foreign(attack_plugin(spec.method), full, num_classes)


@dataclass(frozen=True)
class Foreign:
    """An attack with its parameters."""

    plugin: AttackPlugin
    spec: AttackSpec
    num_classes: int
    foreign: ClassVar[bool] = True
    whole_groups: ClassVar[bool] = True
    """It may average a loss over the batch: an image's gradient is rounded by how many there are."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        """Attack ``model`` on x [N, C, H, W] in [0, 1] with labels y [N]. What comes back is for others to check."""
        if self.spec.threat.eps == 0:
            return x
        # As to torchattacks' classes, images are given in plain memory, in which `view` works.
        plain = Plain(model, torch.contiguous_format if x.is_contiguous() else torch.channels_last)
        given, labels, seed = x.clone(memory_format=torch.contiguous_format), y.clone(), torch.initial_seed()
        try:
            answer = self.asked(plain, given, labels)
        except SystemExit as end:
            raise RuntimeError(f"it ends the program: {end!r}") from end
        notes = self._reseeded(seed)
        if not isinstance(answer, Tensor) or answer.shape != x.shape:
            return answer
        # A copy: it may write its next answer into the same memory.
        images = self._brought_in(answer.detach().clone(), x)
        written = (given != x).flatten(1).any(1) | (labels != y)
        # What a group is filled up with is no sample.
        if count := int(written[: getattr(model, "images", None)].sum()):
            notes += (f"the attack wrote into the images or labels that it was given on {count} samples",)
        return Proposed(images, notes, written)

    def asked(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        """Call the attack as it wants to be, with nothing guarded."""
        found, arguments = self.plugin.found, self._arguments()
        if not self.plugin.is_class:
            return found(model, x, y, self.spec.threat.eps, **arguments)
        lent = model if next(model.parameters(), None) is not None else OnDevice(model, x.device)
        return contained(found)(lent, **arguments)(x, y)  # type: ignore[arg-type]

    def _arguments(self) -> dict[str, Any]:
        """Return what is given by name; texts and lists in the type of their defaults."""
        signature = self.plugin.parameters
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(signature[name].default, tuple) and isinstance(value, list) else value
            for name, value in self.spec.params.items()
        }
        return arguments | {name: value for name, value in self._settings().items() if name in signature}

    def _settings(self) -> dict[str, Any]:
        """Return what the harness sets where the attack knows it; the seed is drawn as for torchattacks' own."""
        threat, seed = self.spec.threat, int(torch.randint(2**31 - 1, ()))
        if not self.plugin.is_class:
            return {"norm": threat.norm.value}
        return {"eps": threat.eps, "norm": NORMS[threat.norm], "seed": seed, "n_classes": self.num_classes}

    def _brought_in(self, images: Tensor, x: Tensor) -> Tensor:
        """Return ``images``, with the clean one where an attack that is told no eps needs more than is allowed."""
        if not self.plugin.entry.minimum_norm:
            return images
        return torch.where(allowed(images.to(x), x, self.spec.threat)[:, None, None, None], images, x)

    def _reseeded(self, seed: int) -> tuple[str, ...]:
        if torch.initial_seed() == seed or "seed" in self.plugin.parameters:
            return ()
        return ("the attack seeds torch's generator itself: its draws do not follow the run's seed",)
