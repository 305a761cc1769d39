"""What a matrix would take in time and disk, for any number of images. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from ismn_cli.core.intervals import normal_quantile, wilson


@dataclass(frozen=True)
class Charge:
    """What one attack costs, or the answers without any: its examples are shared by all its cells."""

    knowledge: str
    attack: str
    """Empty for the answers without attack."""
    systems: tuple[str, ...]
    forwards: float
    """Passes forward for an image that holds, through every route that is tried; 0 where nothing is attacked."""
    backwards: float
    share: float
    """Of the images that are attacked at all."""
    craft_seconds: float
    """For an image that is attacked."""
    judge_seconds: float
    """For an image, on all systems."""
    bytes: float
    """For an image, on disk."""
    piloted: bool = False
    """Whether it was tried out on the pilot's images: what it leaves of them is known to the attacks after it."""

    def seconds(self, images: int) -> float:
        """Return the seconds for so many images."""
        return images * (self.share * self.craft_seconds + self.judge_seconds)


@dataclass(frozen=True)
class Forecast:
    """A matrix's cost, predicted from a few timed batches."""

    charges: tuple[Charge, ...]
    fixed_seconds: float
    """Whatever the number of images: the self-tests of attacks that are not tested yet."""
    images: int
    """Of the recipe."""
    available: int
    """In the split."""
    pilot: int
    """Images that it was predicted from."""
    missing: tuple[str, ...] = ()
    """Systems that cannot be timed yet."""
    order: tuple[str, ...] = ()
    """The attacks on survivors in their order."""

    def seconds(self, images: int | None = None) -> float:
        """Return the seconds for ``images``, the recipe's own unless given."""
        n = self.images if images is None else images
        return self.fixed_seconds + sum(charge.seconds(n) for charge in self.charges)

    def bytes(self, images: int | None = None) -> float:
        """Return the bytes that are stored for ``images``, the recipe's own unless given."""
        return (self.images if images is None else images) * sum(charge.bytes for charge in self.charges)

    def affordable(self, budget: float) -> int:
        """Return how many images, at most all, can be had in ``budget`` seconds; 0 where not even one."""
        each = sum(charge.seconds(1) for charge in self.charges)
        left = budget - self.fixed_seconds
        if left < each:
            return 0
        return min(self.available, int(left / each)) if each else self.available


def half_width(images: int, share: float = 0.5) -> float:
    """Return half the length of Wilson's 95 % interval for a ``share`` of so many images."""
    low, high = wilson(share * images, images, normal_quantile(0.95))
    return (high - low) / 2


