"""Settings of MagNet. No torch here: the command line reads them before any model is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Interval

from ismn_models.shape import Shape

Part = Literal["error", "jsd-10", "jsd-40", "error-1", "error-2", "reformer"]
"""What `off` can switch off, each alone, for ablation:

error              cifar10: the detector on the mean absolute reconstruction error
jsd-10, jsd-40     cifar10: the detectors on the divergence of the classifier's softened answers, T = 10 and T = 40
error-1, error-2   mnist: detector I, on the mean squared error of autoencoder I, and II, on the mean absolute of II
reformer           no reforming: what passes the detectors is classified as it came
"""
PARTS: dict[str, tuple[Part, ...]] = {
    "cifar10": ("error", "jsd-10", "jsd-40", "reformer"),
    "mnist": ("error-1", "error-2", "reformer"),
}
"""What each set-up has that can be switched off."""


@dataclass(frozen=True)
class MagnetConfig:
    """A set-up of the paper; what is left open is as the set-up has it.

    mnist is that of the authors' code. cifar10 is documented by Carlini and Wagner's fork of it.
    """

    setup: Literal["auto", "cifar10", "mnist"] = "auto"
    """mnist: two detectors on the errors of two autoencoders, of 310 and of 142 weights. cifar10: three detectors
    on one. auto: mnist for images of one channel, cifar10 for all others."""
    arch: Literal["improved", "paper"] | None = None
    """Of cifar10. improved: the author's later autoencoder, 11,139 weights. paper: three sigmoid layers, 252 weights.
    (improved unless given)"""
    off: tuple[Part, ...] = ()

    epochs: Annotated[int, Ge(0)] = 100
    """As in the code for MNIST, and for CIFAR-10 in Carlini and Wagner's fork; the paper has 400 there."""
    batch_size: Annotated[int, Ge(2)] = 256
    lr: Annotated[float, Gt(0)] = 1e-3
    noise: Annotated[float, Ge(0)] | None = None
    """Standard deviation of the training noise, in pixel units; drawn once per image, not once per epoch.
    (mnist: 0.1, cifar10: 0.025)"""
    activity_weight: Annotated[float, Ge(0)] = 1e-9
    """Of the squared outputs of every layer, summed over an image."""

    error_drop_rate: Annotated[float, Interval(ge=0, lt=1)] | None = None
    """Share of clean validation images that each detector on a reconstruction error may reject.
    (mnist: 0.001, cifar10: 0.005)"""
    jsd_drop_rate: Annotated[float, Interval(ge=0, lt=1)] | None = None
    """The same for each detector on the divergence, which only cifar10 has: 0.01 there.

    All detectors together reject at most the sum of their shares."""

    def uses(self, part: Part) -> bool:
        """Whether ``part`` is switched on."""
        return part not in self.off

    def resolved(self, shape: Shape) -> Self:
        """Return these settings with the set-up for images of ``shape``, and what it decides, filled in.

        Raises ValueError where the set-up does not have what is set, or does not take such images.
        """
        setup = ("mnist" if shape.channels == 1 else "cifar10") if self.setup == "auto" else self.setup
        strange = [part for part in self.off if part not in PARTS[setup]]
        if strange:
            raise ValueError(f"off: the set-up {setup} has no '{strange[0]}'; it has {', '.join(PARTS[setup])}")
        if setup == "cifar10":
            return self._filled(setup, arch="improved", noise=0.025, error_drop_rate=0.005, jsd_drop_rate=0.01)
        for name in ("arch", "jsd_drop_rate"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: the set-up mnist has none; leave it out, or set setup=cifar10")
        if shape.size % 2:
            raise ValueError(f"the set-up mnist halves images, and {shape.size} pixels is odd; set setup=cifar10")
        return self._filled(setup, noise=0.1, error_drop_rate=0.001)

    def _filled(self, setup: str, **defaults: str | float) -> Self:
        open_ones = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, setup=setup, **open_ones)  # type: ignore[arg-type]
