"""Examples made elsewhere against the images they claim to be of: every violation is named, before any judgement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ismn_cli.core.specs import Norm, ThreatModel, format_eps
from ismn_cli.data.example_files import Given
from ismn_cli.data.image_set import ImageSet
from ismn_cli.data.problems import refusal
from ismn_cli.engine.ball import TOLERANCE, allowed, distances

Array = npt.NDArray[Any]
SHOWN = 5
"""Ids that a violation shows."""


@dataclass(frozen=True)
class Checked:
    """Examples that are what they claim to be."""

    images: ImageSet
    """The images that they were made from."""
    adversarial: Tensor
    """float32 [N, C, H, W] in the order of ``images``."""
    strayed: Tensor
    """bool [N]: not finite, outside [0, 1] or outside the ball."""
    notes: tuple[str, ...]


def check_examples(
    given: Given, images: ImageSet, threat: ThreatModel, *, limited: bool, seed: int, drop: bool
) -> Checked:
    """Return the examples beside their images.

    Where the file has ids they say which image is which, in any order; unless ``limited``, they may be any part of
    ``images``, which is put in the order of `ImageSet.select` if it is its beginning, else in that of the data set.
    Without ids the examples are of all ``images``, in their order. With ``drop`` samples that leave the threat model
    are let pass as strayed. Raises UsageError naming every violation.
    """
    problems: list[str] = []
    pixels = _pixels(given.adversarial, images, given.layout, "examples", problems)
    chosen, rows = _chosen(given, images, limited, seed, problems)
    if chosen is None or rows is None:
        if pixels is not None:
            problems += [f"examples {told}" for told in _box(pixels)]
        raise refusal(f"'{given.place}'", problems, HINT)
    _check_labels(given, chosen, rows, problems)
    _check_clean(given, chosen, rows, problems)
    if pixels is None:
        raise refusal(f"'{given.place}'", problems, HINT)
    ordered = torch.from_numpy(np.ascontiguousarray(pixels[rows]))
    strayed, left = _strayed(ordered, chosen, threat)
    if problems or (left and not drop):
        told = [line for line, _ in left]
        hint = next((hint for _, hint in left if hint and not problems), HINT)
        raise refusal(f"'{given.place}'", [*problems, *told], hint)
    notes = tuple(f"made elsewhere: {line}; counted as unknown" for line, _ in left)
    return Checked(chosen, ordered, strayed, notes)


HINT = "Nothing was judged. See ismn score --help for what is read."


def _pixels(array: Array, images: ImageSet, layout: str | None, what: str, problems: list[str]) -> Array | None:
    """Return float32 [N, C, H, W] in [0, 1] where the array can be read so; else say what is wrong with it."""
    planes = _channels_first(array, tuple(images.pixels.shape[1:]), layout, what, problems)
    if array.dtype.kind in "iu":
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or high > 255:
            problems.append(f"{what} are whole numbers from {low} to {high}, not 0 to 255")
            return None
        return None if planes is None else planes.astype(np.float32) / np.float32(255)
    if array.dtype.kind != "f":
        problems.append(f"{what} are of type {array.dtype}; wanted are floats in [0, 1] or whole numbers of 0 to 255")
        return None
    high = np.nanmax(array, initial=0)
    if 2 < high <= 255 and np.nanmean(array) > 1:
        problems.append(f"{what} are floats up to {high:.6g}, not in [0, 1]; divide them by 255")
        return None
    return None if planes is None else planes.astype(np.float32)


def _channels_first(
    array: Array, shape: tuple[int, ...], layout: str | None, what: str, problems: list[str]
) -> Array | None:
    channels, height, width = shape
    if array.ndim == 3 and channels == 1 and array.shape[1:] == (height, width):
        return array[:, None]
    fits = {"nchw": array.shape[1:] == shape, "nhwc": array.shape[1:] == (height, width, channels)}
    if layout is not None and layout not in fits:
        problems.append(f"layout is '{layout}', neither nchw nor nhwc")
        return None
    named = [name for name, fit in fits.items() if fit and layout in (None, name)]
    if len(named) == 2:
        problems.append(f"{what} {list(array.shape)} may be nchw or nhwc; add an array layout='nchw' to the file")
        return None
    if not named or array.ndim != 4:
        problems.append(f"{what} have shape {list(array.shape)}; wanted is [N, {channels}, {height}, {width}] or "
                        f"[N, {height}, {width}, {channels}]")  # fmt: skip
        return None
    return array if named == ["nchw"] else array.transpose(0, 3, 1, 2)


def _chosen(
    given: Given, images: ImageSet, limited: bool, seed: int, problems: list[str]
) -> tuple[ImageSet | None, Array | None]:
    """Return the images that the examples are of, and the row of each in the file."""
    count = len(given.adversarial) if given.adversarial.ndim else 0
    if given.ids is None:
        if count == len(images):
            return images, np.arange(count)
        problems.append(
            f"there are {count:,} examples for {len(images):,} images of {images.name} {images.split}; add ids, the "
            "index of each in the data set, or a fitting --limit"
        )
        return None, None
    ids = given.ids
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) != count:
        problems.append(f"ids are {ids.dtype} {list(ids.shape)} for {count:,} examples; wanted are whole numbers [N]")
        return None, None
    found = list(_id_problems(ids, images, limited))
    problems += found
    return (None, None) if found else _ordered(ids, images, seed)


def _id_problems(ids: Array, images: ImageSet, limited: bool) -> Iterator[str]:
    there, seen = set(images.ids.tolist()), set(ids.tolist())
    where = f"{images.name} {images.split}" + (" within the --limit" if limited else "")
    unknown = [sample for sample in ids.tolist() if sample not in there]
    if unknown:
        yield f"not among the images of {where}: {_some(unknown)}"
    if len(seen) < len(ids):
        values, counts = np.unique(ids, return_counts=True)
        yield f"given more than once: {_some(values[counts > 1].tolist())}"
    if limited and (missing := sorted(there - seen)):
        yield f"asked for by the --limit and missing: {_some(missing)}"


def _ordered(ids: Array, images: ImageSet, seed: int) -> tuple[ImageSet | None, Array | None]:
    row = {sample: i for i, sample in enumerate(ids.tolist())}
    chosen = images
    if len(row) < len(images):
        chosen = images.select(len(row), seed) if row else images.take(slice(0))
        if set(chosen.ids.tolist()) != set(row):
            chosen = _by_id(images, set(row))
    return chosen, np.array([row[sample] for sample in chosen.ids.tolist()], dtype=np.int64)


def _by_id(images: ImageSet, ids: set[int]) -> ImageSet:
    """Return images that no --limit gives, as a split of their own: reports say so."""
    chosen = images.take(torch.tensor([i for i, sample in enumerate(images.ids.tolist()) if sample in ids]))
    split = f"{images.split} ({len(chosen):,} of {images.total:,}, by id)"
    return replace(chosen, split=split, total=len(chosen))


def _check_labels(given: Given, images: ImageSet, rows: Array, problems: list[str]) -> None:
    if given.labels is None:
        return
    labels = given.labels
    if labels.ndim == 2 and labels.shape[1] == len(images.classes) and bool((labels.sum(1) == 1).all()):
        labels = labels.argmax(1)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        problems.append(f"labels are {labels.dtype} {list(labels.shape)} for {len(images):,} examples")
        return
    mine, theirs = labels[rows], images.labels.cpu().numpy()
    wrong = np.flatnonzero(mine != theirs)
    if len(wrong):
        first = wrong[0]
        problems.append(
            f"labels differ from those of {images.name} on {len(wrong):,} of {len(images):,} samples, first on id "
            f"{int(images.ids[first])}: {mine[first]}, there {theirs[first]}{_order(given)}"
        )


def _check_clean(given: Given, images: ImageSet, rows: Array, problems: list[str]) -> None:
    if given.clean is None:
        return
    clean = _pixels(given.clean, images, given.layout, "clean images", problems)
    if clean is None:
        return
    if len(clean) != len(images):
        problems.append(f"there are {len(clean):,} clean images for {len(images):,} examples")
        return
    linf, _ = distances(torch.from_numpy(np.ascontiguousarray(clean[rows])), images.floats().cpu())
    wrong = (~(linf <= TOLERANCE)).nonzero()[:, 0].tolist()
    if wrong:
        problems.append(
            f"clean images differ from those of {images.name} on {len(wrong):,} of {len(images):,} samples, "
            f"{_some(_ids(images, wrong))}, by up to {float(linf[wrong].max()):.4g}{_order(given)}"
        )


def _order(given: Given) -> str:
    return "" if given.ids is not None else "; is it another order? Then add ids"


def _strayed(adversarial: Tensor, images: ImageSet, threat: ThreatModel) -> tuple[Tensor, list[tuple[str, str]]]:
    """Return which samples leave the threat model, and (violation, hint) for each way of doing so."""
    x = images.floats().cpu()
    finite = adversarial.isfinite().flatten(1).all(1)
    kept = finite & allowed(adversarial, x, threat) if len(x) else finite
    found = [(f"{told}: {_some(_ids(images, where))}", DROP) for told, where in _outside(adversarial)]
    linf, l2 = distances(adversarial, x)
    size = linf if threat.norm is Norm.LINF else l2
    out = (finite & (size > threat.eps + TOLERANCE)).nonzero()[:, 0].tolist()
    if out:
        found.append(_out_of_ball(out, size, images, threat))
    return ~kept, found[::-1]


def _out_of_ball(out: Sequence[int], size: Tensor, images: ImageSet, threat: ThreatModel) -> tuple[str, str]:
    worst = max(out, key=lambda i: float(size[i]))
    far, eps = float(size[worst]), threat.eps
    told = (
        f"{len(out):,} of {len(size):,} samples leave the {threat.norm} ball of {format_eps(eps)}: "
        f"{_some(_ids(images, out))}, by up to {far - eps:.4g} (id {int(images.ids[worst])} is {far:.4g} away)"
    )
    holds = f"Give the size that they were made with (--eps {_above(far)} holds them all). " if far < 1 else ""
    return told, holds + DROP


def _above(size: float) -> str:
    return format_eps(math.ceil(size * 1e4) / 1e4)


DROP = "--drop-violations counts such samples as unknown, neither robust nor broken."


def _box(pixels: Array) -> list[str]:
    """Return what is wrong with pixels alone, for examples of nobody knows which images."""
    outside = _outside(torch.from_numpy(np.ascontiguousarray(pixels)))
    return [f"{told} (the first is number {where[0] + 1})" for told, where in outside]


def _outside(adversarial: Tensor) -> Iterator[tuple[str, list[int]]]:
    """Yield (what is wrong, positions) for pixels that are not finite, or outside [0, 1]."""
    flat = adversarial.flatten(1)
    finite = flat.isfinite().all(1)
    lost = (~finite).nonzero()[:, 0].tolist()
    if lost:
        yield f"{len(lost):,} of {len(flat):,} samples have pixels that are not finite", lost
    if not flat.numel():
        return
    below, above = (-flat.amin(1)).clamp_min(0), (flat.amax(1) - 1).clamp_min(0)
    excess = torch.maximum(below, above)
    out = (finite & (excess > TOLERANCE)).nonzero()[:, 0].tolist()
    if out:
        far = float(excess[out].max())
        scaled = " (are they in [-1, 1]? Then write (x + 1) / 2)" if float((below > 0.5).float().mean()) > 0.5 else ""
        yield f"{len(out):,} of {len(flat):,} samples have pixels outside [0, 1], by up to {far:.4g}{scaled}", out


def _ids(images: ImageSet, positions: Sequence[int]) -> list[int]:
    ids: list[int] = images.ids[torch.tensor(positions, dtype=torch.long)].tolist()
    return ids


def _some(ids: Sequence[int]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return f"{'id' if len(ids) == 1 else 'ids'} {', '.join(map(str, ids[:SHOWN]))}{more}"
