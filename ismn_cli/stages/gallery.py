"""The gallery of a matrix: a few lives kept in its folder, so that a report can show pictures without a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ismn_cli.core.lives import Album, Lives, write_album
from ismn_cli.core.picks import Pick, picks
from ismn_cli.core.records import CellResult
from ismn_cli.core.runs import Run
from ismn_cli.core.store import Store
from ismn_cli.stages.lives import Scene
from ismn_cli.stages.plan import Matrix
from ismn_cli.stages.resolve import Resolved

if TYPE_CHECKING:
    from ismn_cli.core.lives import Picture
    from ismn_cli.stages.lives import Told

MOST = 24
"""Lives in a gallery."""
BYTES = 5 * 2**19
"""That all pictures may take together, 2.5 MiB: larger ones are made smaller."""
_LOG = logging.getLogger("ismn")


def keep_gallery(run: Run, store: Store, matrix: Matrix, results: Sequence[CellResult]) -> tuple[str, ...]:
    """Keep some lives of a finished matrix in the folder of ``run``; return a note where that fails.

    The same results give the same bytes.
    """
    try:
        told = _lives(store, matrix, picks(results, MOST))
        classes = tuple(matrix.images.classes)
        pictures = _fitted([pictures for _, pictures in told])
        write_album(run.folder, Album(Lives(classes=classes, lives=tuple(life for life, _ in told)), pictures))
    except Exception as error:  # pictures are no reason to lose a run, whatever went wrong with them
        _LOG.debug("gallery", exc_info=True)
        return (f"No pictures were kept: {type(error).__name__}, {error}",)
    return ()


def _lives(store: Store, matrix: Matrix, chosen: Sequence[Pick]) -> list[Told]:
    """Return the lives of ``chosen``, in their order."""
    systems = _systems(matrix)
    found: dict[tuple[str, int], Told] = {}
    by_cell = sorted(chosen, key=_cell_of)
    for key, own in groupby(by_cell, _cell_of):
        part = list(own)
        scene = Scene(part[0].result, systems[key], matrix.images, store, matrix.device)
        found |= {(key, told[0].position): told for told in scene.lives([pick.position for pick in part])}
    return [found[_cell_of(pick), pick.position] for pick in chosen]


def _cell_of(pick: Pick) -> str:
    return pick.result.cell.key()


def _systems(matrix: Matrix) -> Mapping[str, Resolved]:
    """Return the system of each attacked cell, by the cell's key."""
    return {cell.key(): system for job in matrix.jobs() for system, cell in job.cells}


def _fitted(lives: Iterable[tuple[Picture, ...]]) -> tuple[tuple[Picture, ...], ...]:
    """Return the pictures in half precision, all of one size: together they take `BYTES` at most."""
    import numpy as np

    whole = list(lives)
    count = sum(map(len, whole))
    if not count:
        return ()
    channels, side = whole[0][0].shape[0], whole[0][0].shape[-1]
    largest = math.isqrt(BYTES // (2 * channels * count))
    return tuple(
        tuple((picture if side <= largest else _smaller(picture, largest)).astype(np.float16) for picture in pictures)
        for pictures in whole
    )


def _smaller(picture: Picture, side: int) -> Picture:
    """Return a picture [C, H, W] with ``side`` pixels a side, each the mean of those that it stands for."""
    import torch

    shrunk = torch.nn.functional.interpolate(torch.from_numpy(picture)[None], size=(side, side), mode="area")
    return shrunk[0].numpy()
