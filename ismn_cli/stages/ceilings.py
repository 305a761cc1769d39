"""Ceilings of image sets: computed once per images, norm and eps, and kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ismn_cli.core.ceilings import Ceiling
from ismn_cli.core.specs import Norm
from ismn_cli.core.store import Store

if TYPE_CHECKING:
    from ismn_cli.data.image_set import ImageSet


def ensure_ceilings(
    store: Store,
    images: ImageSet,
    norm: Norm,
    eps_list: Sequence[float],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[float, Ceiling]:
    """Return the ceiling of ``images`` at each eps (pixels of [0, 1]), from the store or computed and stored.

    ``on_progress`` takes (pairs of images compared, all pairs). Raises UsageError for no images, for sizes that are
    none, and for a full disk.
    """
    samples = images.samples()
    found = {eps: stored for eps in eps_list if (stored := store.ceiling(samples, norm, eps))}
    missing = [eps for eps in dict.fromkeys(eps_list) if eps not in found]
    if missing:
        from ismn_cli.audit.ceiling import ceilings

        pixels, labels = images.pixels.cpu().numpy(), images.labels.cpu().numpy()
        for new in ceilings(pixels, labels, norm, missing, on_progress):
            ceiling = Ceiling(
                samples=samples, norm=norm, eps=new.eps, conflicting=new.conflicting, possible=new.possible
            )
            store.put_ceiling(ceiling)
            found[new.eps] = ceiling
    return {eps: found[eps] for eps in eps_list}
